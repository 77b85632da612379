"""What two models differ by on the same rows, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.evaluation.measuring import Measured, Scores, draws_again, scores_of
from ftcore.evaluation.statistics import FEWEST_ROWS, Draws, Figures, Interval, intervals

LOSS = "loss"
UNCLEAR = "no clear difference"


@attrs.frozen(kw_only=True)
class Difference:
    """A model's figure less the reference's, on `rows` rows. The lower loss is better, and the higher score."""

    model: str
    reference: str
    figure: str
    interval: Interval
    rows: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or no clear difference: the interval has zero in it, or the rows are too few."""
        low, high = self.interval.low, self.interval.high
        if self.rows < FEWEST_ROWS or not (low > 0 or high < 0):
            return UNCLEAR
        return "better" if (low > 0) != (self.figure == LOSS) else "worse"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        names = {"model": self.model, "reference": self.reference, "figure": self.figure, "rows": self.rows}
        return {**names, **self.interval.as_json(), "verdict": self.verdict}


def differences(
    measured: Mapping[str, Measured], reference: str, draws: Draws
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Every other model less the reference, figure by figure, and notes on what cannot be compared."""
    found: list[Difference] = []
    notes: list[str] = []
    scores = {name: scores_of(each) for name, each in measured.items()}
    for name, other in measured.items():
        if name == reference:
            continue
        pair = _Pair(model=name, reference=reference, draws=draws)
        if _same_tokens(measured[reference], other):
            found.append(pair.loss(other, measured[reference]))
        else:
            notes.append(f"{name} and {reference} make other tokens of the rows, so their losses are not compared")
        found += pair.scores(scores[name], scores[reference], len(other.answers))
    if any(difference.rows < FEWEST_ROWS for difference in found):
        notes.append(f"fewer than {FEWEST_ROWS} rows prove no difference, whatever they say")
    return tuple(found), tuple(notes)


def _same_tokens(one: Measured, other: Measured) -> bool:
    return [row.tokens for row in one.losses] == [row.tokens for row in other.losses]


@attrs.frozen(kw_only=True)
class _Pair:
    model: str
    reference: str
    draws: Draws

    def loss(self, one: Measured, other: Measured) -> Difference:
        rows = len(one.losses)
        mine, yours = one.loss, other.loss
        return next(self._differ(lambda at: {LOSS: mine(at)}, lambda at: {LOSS: yours(at)}, [LOSS], rows, self.draws))

    def scores(self, one: Scores, other: Scores, rows: int) -> Iterator[Difference]:
        both = [name for name in one.values if name in one.ratios and name in other.ratios]
        yield from self._differ(one.means, other.means, both, rows, self.draws)
        rest = [name for name in one.compared if name in other.compared and name not in both]
        yield from self._differ(one.again, other.again, rest, rows, draws_again(self.draws, rows, 2))

    def _differ(
        self, one: Figures, other: Figures, names: Sequence[str], rows: int, draws: Draws
    ) -> Iterator[Difference]:
        if not names:
            return

        def work(places: Sequence[int]) -> dict[str, float]:
            mine, yours = one(places), other(places)
            return {name: mine[name] - yours[name] for name in names if name in mine and name in yours}

        for name, interval in intervals(work, rows, draws).items():
            yield Difference(model=self.model, reference=self.reference, figure=name, interval=interval, rows=rows)
