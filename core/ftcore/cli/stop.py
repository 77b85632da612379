"""Ask a running run for a clean stop, and wait until it has ended."""

from __future__ import annotations

import argparse

from ftcore.cli.common import add_run, add_wait, complain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore stop`."""
    add_run(parser)
    add_wait(parser, "the end")
    parser.add_argument("--json", action="store_true", help="print state, reason and last checkpoint as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Ask, and wait."""
    from ftcore.early_end import last_step, way_on, way_on_once_mended
    from ftcore.errors import RunError
    from ftcore.requests import ask_to_stop
    from ftcore.values import RunState

    ended = ask_to_stop(parsed.run, wait=parsed.wait, say=complain)
    if parsed.json:
        step = last_step(ended.folder)
        print_json({"state": ended.state, "reason": ended.reason, "step": step})
    if ended.state == RunState.FAILED:
        told = (f"{ended.folder} has failed ({ended.reason})", way_on_once_mended(ended.folder))
        raise RunError("; ".join(filter(None, told)))
    if not parsed.json:
        print("it had finished already" if ended.state == RunState.FINISHED else f"stopped; {way_on(ended.folder)}")
    return 0
