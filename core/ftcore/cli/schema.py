"""Print one JSON schema over core and every installed plugin, which editors complete profiles from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftcore.cli.common import complain, print_json
from ftcore.discovery import discover
from ftcore.schema import profile_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore schema`."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to a file instead of standard output")


def main(parsed: argparse.Namespace) -> int:
    """Print."""
    schema, broken = profile_schema(discover())
    for sentence in broken:
        complain(f"warning: {sentence}")
    if parsed.output is None:
        print_json(schema)
    else:
        import json

        parsed.output.write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
    return 0
