"""Watch a run from another terminal, also over ssh: only the files in its folder are read, and it is not touched.

It follows until the run has ended; q or Ctrl-C leaves, and the run goes on.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from ftcore.cli.common import add_run, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore monitor`."""
    add_run(parser, "folder of a run, running or ended")
    parser.add_argument("--once", action="store_true", help="print one picture, and end")
    parser.add_argument("--json", action="store_true", help="print one picture as JSON, and end")


def main(parsed: argparse.Namespace) -> int:
    """Watch."""
    from ftcore.display import can_move
    from ftcore.display.watching import Watched
    from ftcore.errors import ExitCode, Interrupted

    watched = Watched(parsed.run)
    if parsed.json:
        print_json(watched.as_json())
        return 0
    from ftcore.display import following

    try:
        if parsed.once or not watched.is_running:
            following.print_once(watched)
        elif can_move(sys.stdout):
            following.follow_on_screen(watched)
        else:
            following.follow_in_lines(watched, partial(print, flush=True))
    except Interrupted as left:
        if left.exit_code != ExitCode.INTERRUPTED:
            raise
    return 0  # who leaves by Ctrl-C has seen enough
