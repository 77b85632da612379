"""Do the work of one worker process; started by a launcher, not by hand."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore worker`."""
    parser.add_argument("folder", type=Path, help="run folder with the resolved profile")


def main(parsed: argparse.Namespace) -> int:
    """Work."""
    from ftcore.display import choose_display
    from ftcore.engine import work

    work(parsed.folder, display=choose_display(quiet=False))
    return 0
