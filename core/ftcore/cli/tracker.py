"""Send what a run writes down to one tracker; started by it, not by hand."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore tracker`."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("name", help="plugin that tracks")
    parser.add_argument("--parent", type=int, required=True, help="process id of who started it")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="override a key")
    parser.add_argument("--with", dest="switch_on", action="append", default=[], metavar="PLUGIN", help="switch it on")


def main(parsed: argparse.Namespace) -> int:
    """Track."""
    from ftcore.tracking.process import work

    return work(parsed.folder, parsed.name, parsed.parent, sets=parsed.sets, switch_on=parsed.switch_on)
