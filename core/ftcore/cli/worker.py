"""Do the work of one worker process; started by a launcher, not by hand."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore worker`."""
    parser.add_argument("folder", type=Path, help="run folder with the resolved profile")
    parser.add_argument("--probe", action="store_true", help="only meet the other workers, and end")
    parser.add_argument("--trace-hooks", action="store_true", help="print which plugin answered which hook, how fast")
    parser.add_argument("--progress", default="auto", help="how to show progress: auto, live, plain, json or quiet")


def main(parsed: argparse.Namespace) -> int:
    """Work."""
    from ftcore.errors import ExitCode, FtcoreError, Interrupted
    from ftcore.processes.attach import end_with_launcher, rank_log, write_to_file
    from ftcore.processes.failures import FILE

    end_with_launcher()
    rank = os.environ.get("RANK", "0")
    if rank.isdecimal() and int(rank):
        write_to_file(rank_log(parsed.folder, int(rank)))
    try:
        _work(parsed)
    except FtcoreError as error:
        if not os.environ.get(FILE):
            raise
        return error.exit_code  # the launcher tells it, once
    except Interrupted:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        return ExitCode.DONE  # the agent would take any other code for a failure, and end the others
    return ExitCode.DONE


def _work(parsed: argparse.Namespace) -> None:
    from ftcore.display import choose_display
    from ftcore.engine import probe, work
    from ftcore.isolation import Traced
    from ftcore.summary import print_trace

    if parsed.probe:
        probe(parsed.folder)
        return
    traced: list[Traced] = []
    try:
        record = traced.append if parsed.trace_hooks else None
        work(parsed.folder, display=choose_display(progress=parsed.progress), record=record)
    finally:
        if parsed.trace_hooks:
            print_trace(traced)
