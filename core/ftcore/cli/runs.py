"""List runs with state, step and loss, newest first."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftcore.cli.common import print_json, table
from ftcore.runs import list_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore runs`."""
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def main(parsed: argparse.Namespace) -> int:
    """List."""
    found = list_runs(parsed.output_dir)
    if parsed.json:
        print_json([info.as_json() for info in found])
    elif not found:
        print(f"no runs in {parsed.output_dir.resolve()}")
    else:
        rows = [
            [
                info.name,
                info.state,
                f"{info.step}/{info.total_steps}" if info.total_steps else str(info.step),
                "" if info.loss is None else f"{info.loss:.4f}",
                info.created,
            ]
            for info in found
        ]
        table(["run", "state", "step", "loss", "created"], rows)
    return 0
