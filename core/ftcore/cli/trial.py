"""Take one try of `ftcore tune`; started by it, not by hand."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore trial`."""
    parser.add_argument("folder", type=Path, help="folder with the resolved profile")
    parser.add_argument("--only-prepare", action="store_true", help="only read and format the rows")
    parser.add_argument("--rank", action="store_true", help="as one of several processes, which a try has started")


def main(parsed: argparse.Namespace) -> int:
    """Try."""
    from ftcore.processes.attach import end_with_launcher
    from ftcore.tuning.trial import work

    end_with_launcher()
    work(parsed.folder, only_prepare=parsed.only_prepare, as_rank=parsed.rank)
    return 0
