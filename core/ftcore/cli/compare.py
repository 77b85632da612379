"""Put the base model, checkpoints and runs side by side on the same rows: figures, differences, answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ftcore.cli.common import add_sets, print_json, table
from ftcore.cli.evaluate import add_row_arguments, row_settings

if TYPE_CHECKING:
    from ftcore.evaluation.comparing import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, RUN@STEP for a checkpoint of it, or base for the first run's model before its first "
        "step; a run alone is compared with its base",
    )
    parser.add_argument(
        "--checkpoint", type=int, action="append", default=[], metavar="STEP", help="a checkpoint of the first run, too"
    )
    add_row_arguments(parser)
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="rows to show with answers (default: 3)")
    add_sets(parser)
    parser.add_argument(
        "--allow-changes", action="store_true", help="compare although a profile, data or base model changed"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, with every answer")


def main(parsed: argparse.Namespace) -> int:
    """Compare."""
    from ftcore.display import choose_display
    from ftcore.evaluation.comparing import compare
    from ftcore.evaluation.subjects import subjects_of
    from ftcore.files import finite

    wanted, answering = row_settings(parsed)
    comparison = compare(
        subjects_of(parsed.runs, parsed.checkpoint),
        wanted=wanted,
        answering=answering,
        draws=parsed.draws,
        sets=parsed.sets,
        allow_changes=parsed.allow_changes,
        display=choose_display(quiet=parsed.quiet),
    )
    if parsed.json:
        print_json(finite(comparison.as_json()))
    else:
        _show(comparison, parsed.samples)
    return 0


def _show(comparison: Comparison, samples: int) -> None:
    from ftcore.evaluation.text import comparison_lines, difference_row, figure_rows, rows_words, sample_lines

    print(f"{rows_words(comparison.rows)}, {comparison.answered} of them answered")
    names = list(comparison.measured)
    table(["figure", *names], figure_rows(comparison))
    print(f"\nwith {comparison.reference} as the reference:")
    table(
        ["model", "figure", "difference", "95% interval", "verdict"],
        [difference_row(each) for each in comparison.differences],
    )
    for line in (*comparison_lines(comparison), *sample_lines(comparison.samples(samples))):
        print(line)
