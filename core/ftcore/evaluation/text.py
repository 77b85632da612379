"""Figures and answers as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftcore.errors import printable

if TYPE_CHECKING:
    from ftcore.evaluation.again import Evaluation
    from ftcore.evaluation.comparing import Comparison
    from ftcore.evaluation.differing import Difference
    from ftcore.evaluation.rowset import Rowset
    from ftcore.evaluation.statistics import Interval

SHOWN = 300
"""Characters of a text in a terminal."""


def figure(value: float) -> str:
    """Four digits that count."""
    return f"{value:.4g}"


def title(evaluation: Evaluation) -> str:
    """Which model, and which rows."""
    what = "the base model" if evaluation.weights == "base" else f"step {evaluation.step}"
    answered = len(evaluation.samples)
    return f"{evaluation.run}, {what}: {rows_words(evaluation.rows)}, {answered} of them answered"


def rows_words(rows: Rowset) -> str:
    """How many rows of what, and why others are left out."""
    left = ", ".join(f"{reason}: {count}" for reason, count in rows.left_out.items())
    return f"{len(rows.examples)} rows of {rows.name}" + (f" (left out: {left})" if left else "")


def interval_words(evaluation: Evaluation) -> Iterator[str]:
    """How the intervals came about, and what they cannot know."""
    draws = sorted({each.draws for each in evaluation.figures.values()})
    yield (
        f"intervals: bootstrap over rows, {' or '.join(map(str, draws))} draws, seed {evaluation.draws.seed}; "
        f"perplexity is e to the loss"
    )
    answered = len(evaluation.samples)
    agreed = [name for name, each in evaluation.figures.items() if is_agreed(each)]
    if agreed and answered:
        yield agreed_words(agreed, answered)


def is_agreed(each: Interval) -> bool:
    """Whether every draw came out the same."""
    return each.low == each.high == each.value


def agreed_words(names: Sequence[str], rows: int) -> str:
    """An interval of no width is too sure: Hanley and Lippman-Hand, If nothing goes wrong, JAMA 249 (1983)."""
    most = min(1.0, 3 / rows)
    return f"note: all {rows} rows agree in {', '.join(names)}; among others, up to {most:.0%} may still differ"


def figure_rows(comparison: Comparison) -> list[list[str]]:
    """A row for each figure, with a column for each model."""
    names = list(dict.fromkeys(name for found in comparison.figures.values() for name in found))
    return [[name, *(_with_interval(found.get(name)) for found in comparison.figures.values())] for name in names]


def _with_interval(each: Interval | None) -> str:
    return "" if each is None else f"{figure(each.value)} ({figure(each.low)} to {figure(each.high)})"


def difference_row(difference: Difference) -> list[str]:
    """A model's figure less the reference's, and what that says."""
    each = difference.interval
    range_ = f"{each.low:+.4g} to {each.high:+.4g}"
    return [difference.model, difference.figure, f"{each.value:+.4g}", range_, difference.verdict]


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """How the intervals came about, and what cannot be compared."""
    draws = sorted({each.interval.draws for each in comparison.differences})
    yield (
        f"intervals: paired bootstrap over rows, {' or '.join(map(str, draws))} draws, seed {comparison.draws.seed}; "
        "a difference is clear when its interval leaves out zero"
    )
    yield from (f"note: {note}" for note in comparison.notes)


def sample_lines(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Prompt, expected reply and answers of each row."""
    for sample in samples:
        yield f"{sample['origin']}: {short(sample['prompt'])}"
        yield f"  expected: {short(sample['expected'])}"
        answers = sample.get("answers") or {"answer": sample["answer"]}
        for name, answer in answers.items():
            yield f"  {name}: {short(answer)}"


def short(text: str) -> str:
    """On one line, without what would move a terminal's cursor."""
    line = printable(text)
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 60]} ... {line[-50:]}"
