"""Send what trackers still lack of a run that has ended. Exit code 1 when something is left."""

from __future__ import annotations

import argparse

from ftcore.cli.common import add_run, add_sets, complain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore sync`."""
    add_run(parser)
    parser.add_argument(
        "--to", action="append", default=[], metavar="PLUGIN", help="only this tracker; may be repeated (default: all)"
    )
    parser.add_argument("--again", action="store_true", help="send all of it, also what was sent before")
    add_sets(parser)
    parser.add_argument(
        "--with",
        dest="switch_on",
        action="append",
        default=[],
        metavar="PLUGIN",
        help="send it to a tracker that the run did not have, too; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print what was sent as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Sync."""
    import attrs

    from ftcore.tracking.sync import sync

    options = {"only": parsed.to, "sets": parsed.sets, "switch_on": parsed.switch_on, "again": parsed.again}
    results = sync(parsed.run, say=complain, **options)
    if parsed.json:
        print_json({"trackers": [attrs.asdict(result) for result in results]})
    for result in results if not parsed.json else ():
        if result.lacks:
            complain(f"{result.name}: {result.lacks}; see trackers/{result.name}.log in {parsed.run}")
        elif result.points or result.events:
            print(f"{result.name}: sent {result.points} points and {result.events} events in {result.seconds:.1f} s")
        else:
            print(f"{result.name}: nothing to send")
    return 1 if any(result.lacks for result in results) else 0
