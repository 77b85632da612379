"""Ask a running run for a checkpoint after its next step, and print where it lies."""

from __future__ import annotations

import argparse

from ftcore.cli.common import add_run, add_wait, complain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore checkpoint`."""
    add_run(parser)
    add_wait(parser, "the checkpoint")
    parser.add_argument("--json", action="store_true", help="print step and path as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Ask, and wait."""
    from ftcore.checkpoints import step_of
    from ftcore.requests import ask_for_checkpoint

    path = ask_for_checkpoint(parsed.run, wait=parsed.wait, say=complain)
    if parsed.json:
        print_json({"step": step_of(path.name), "path": str(path)})
    else:
        print(path)
    return 0
