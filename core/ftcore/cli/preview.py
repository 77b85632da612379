"""Print rows as the model will see them: trained tokens in one colour, masked ones in another."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import attrs

from ftcore.cli.common import add_profile_arguments, complain, load, print_json
from ftcore.errors import ProfileError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore preview`."""
    add_profile_arguments(parser)
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows to print (default: 3)")
    parser.add_argument("--json", action="store_true", help="print tokens, labels and the ledger as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Prepare the rows as a run would, without the model's weights, and show them."""
    from ftcore.display import is_terminal
    from ftcore.engine import planned
    from ftcore.preflight import check_profile
    from ftcore.prepare import prepare
    from ftcore.preview import as_json, show

    if parsed.rows < 0:
        raise ProfileError(f"--rows {parsed.rows}: write how many rows to print, 0 for none")
    loaded = load(parsed)
    with tempfile.TemporaryDirectory() as scratch:
        run = attrs.evolve(planned(loaded), folder=Path(scratch))
        plugins, _ = check_profile(loaded, run, report=complain)
        prepared = prepare(plugins, run, _quiet)
        if parsed.json:
            print_json(as_json(prepared, parsed.rows))
        else:
            show(prepared, parsed.rows, colour=is_terminal(sys.stdout))
    return 0


def _quiet(title: str) -> None:
    """A preview needs no stages."""
