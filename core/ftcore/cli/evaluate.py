"""Judge a run, a checkpoint of it or its base on held-out rows, another split or another file, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ftcore.cli.common import add_run, add_sets, print_json, table

if TYPE_CHECKING:
    from ftcore.evaluation.again import Evaluation
    from ftcore.evaluation.measuring import Answering
    from ftcore.evaluation.rowset import Wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore evaluate`."""
    add_run(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=int, metavar="STEP", help="judge this step's checkpoint")
    which.add_argument("--base", action="store_true", help="judge the model as it was before the first step")
    add_row_arguments(parser)
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="answers to show (default: 3)")
    add_sets(parser)
    parser.add_argument(
        "--allow-changes", action="store_true", help="judge although profile, data or base model changed"
    )
    parser.add_argument("--quiet", action="store_true", help="show neither progress nor summary")
    parser.add_argument("--json", action="store_true", help="print the evaluation as JSON, with every answer")


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows are judged by, and how: what `evaluate` and `compare` share."""
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument(
        "--split",
        default="validation",
        metavar="NAME",
        help="validation (the held-out rows, default), train, or another split of the run's data",
    )
    rows.add_argument("--data", type=Path, metavar="FILE", help="rows of the run's format, in place of a split")
    parser.add_argument("--rows", type=int, metavar="N", help="judge by N rows, spread over all (default: all)")
    parser.add_argument(
        "--answers", type=int, metavar="N", help="answer and score N of them; 0 for none (default: 200 at most)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of an answer (default: run.sample_tokens)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows at once (default: train.eval_batch_size)")
    parser.add_argument(
        "--draws", type=int, default=1000, metavar="N", help="draws of the rows for intervals (default: 1000)"
    )


def main(parsed: argparse.Namespace) -> int:
    """Evaluate."""
    from ftcore.display import choose_display
    from ftcore.evaluation.again import evaluate_again
    from ftcore.evaluation.measuring import Weights

    wanted, answering = row_settings(parsed)
    evaluation = evaluate_again(
        parsed.run,
        wanted=wanted,
        weights=Weights(base=parsed.base, checkpoint=parsed.checkpoint),
        answering=answering,
        draws=parsed.draws,
        sets=parsed.sets,
        allow_changes=parsed.allow_changes,
        display=choose_display(quiet=parsed.quiet),
    )
    if parsed.json:
        from ftcore.files import finite

        print_json(finite(evaluation.as_json()))
    elif not parsed.quiet:
        _show(evaluation, parsed.samples)
    return 0


def row_settings(parsed: argparse.Namespace) -> tuple[Wanted, Answering]:
    """The rows and the answers that the arguments ask for. Raises `ProfileError` for numbers that make no sense."""
    from ftcore.errors import ProfileError
    from ftcore.evaluation.measuring import Answering
    from ftcore.evaluation.rowset import Wanted

    for name, least in (("answers", 0), ("max_new_tokens", 1), ("batch_size", 1), ("draws", 100), ("samples", 0)):
        value = getattr(parsed, name)
        if value is not None and value < least:
            raise ProfileError(f"--{name.replace('_', '-')} {value}: write at least {least}")
    wanted = Wanted(split=parsed.split, file=parsed.data, rows=parsed.rows)
    return wanted, Answering(rows=parsed.answers, tokens=parsed.max_new_tokens, batch=parsed.batch_size)


def _show(evaluation: Evaluation, samples: int) -> None:
    from ftcore.evaluation.text import figure, interval_words, sample_lines, title

    print(title(evaluation))
    rows = [
        [name, figure(each.value), f"{figure(each.low)} to {figure(each.high)}"]
        for name, each in evaluation.figures.items()
    ]
    table(["figure", "value", "95% interval"], rows)
    for line in (*interval_words(evaluation), *sample_lines(evaluation.samples[:samples])):
        print(line)
    print(f"written to {evaluation.path}")
