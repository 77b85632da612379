"""Export a run, or a checkpoint of one, again, without training. Exit code 1 when a proof fails."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftcore.cli.common import add_run, add_sets, print_json

if TYPE_CHECKING:
    from ftcore.values import Artifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore export`."""
    add_run(parser)
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="PLUGIN",
        help="only this exporter or publisher, such as gguf or hub; may be repeated (default: those of the profile)",
    )
    parser.add_argument(
        "--quantization",
        action="append",
        default=[],
        metavar="NAME",
        help="such as q4_k_m, for the exporters that know it; may be repeated",
    )
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="export this step's checkpoint, finished or not")
    add_sets(parser)
    parser.add_argument(
        "--allow-changes", action="store_true", help="export although profile, data or base model changed"
    )
    parser.add_argument("--quiet", action="store_true", help="show neither progress nor summary")
    parser.add_argument("--json", action="store_true", help="print the artifacts and their proofs as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Export."""
    from ftcore.display import choose_display
    from ftcore.errors import RunError
    from ftcore.shipping.again import export_again
    from ftcore.summary import artifact_lines

    written: list[Artifact] = []
    try:
        exported = export_again(
            parsed.run,
            to=parsed.to,
            quantization=parsed.quantization,
            checkpoint=parsed.checkpoint,
            sets=parsed.sets,
            allow_changes=parsed.allow_changes,
            display=choose_display(quiet=parsed.quiet),
            told=written.append,
        )
    except RunError:
        if parsed.json and written:  # a pipeline needs the figures most where a proof has failed
            _print(parsed.run, written, ())
        raise
    if parsed.json:
        _print(parsed.run, exported.artifacts, exported.published)
    elif not parsed.quiet:
        for artifact in exported.artifacts:
            for line in artifact_lines(artifact):
                print(line)
    return 0


def _print(run: Path, artifacts: Sequence[Artifact], published: Sequence[str]) -> None:
    from ftcore.manifest import artifact_as_json

    exports = [artifact_as_json(artifact) for artifact in artifacts]
    print_json({"run": str(run.absolute()), "exports": exports, "published": published})
