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
    """A model's figure less the reference's, on `rows` rows, of which it treats `changed` in another way.

    The lower loss is better, and the higher score.
    """

    model: str
    reference: str
    figure: str
    interval: Interval
    rows: int
    changed: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or no clear difference: the interval has zero in it, or too few rows changed."""
        if self.changed < FEWEST_ROWS or not self.leaves_out_zero:
            return UNCLEAR
        return "better" if (self.interval.low > 0) != (self.figure == LOSS) else "worse"

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the whole interval is on one side."""
        return self.interval.low > 0 or self.interval.high < 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        names = {"model": self.model, "reference": self.reference, "figure": self.figure}
        rows = {"rows": self.rows, "changed": self.changed}
        return {**names, **rows, **self.interval.as_json(), "verdict": self.verdict}


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
        found += pair.scores(scores[name], scores[reference])
    if any(difference.leaves_out_zero and difference.changed < FEWEST_ROWS for difference in found):
        notes.append(f"fewer than {FEWEST_ROWS} rows that differ prove nothing, whatever their interval")
    return tuple(found), tuple(notes)


def _same_tokens(one: Measured, other: Measured) -> bool:
    return [row.tokens for row in one.losses] == [row.tokens for row in other.losses]


@attrs.frozen(kw_only=True)
class _Pair:
    model: str
    reference: str
    draws: Draws

    def loss(self, one: Measured, other: Measured) -> Difference:
        mine, yours = one.loss, other.loss
        changed = {LOSS: mine.changed(yours)}
        rows = len(one.losses)
        return next(self._differ(lambda at: {LOSS: mine(at)}, lambda at: {LOSS: yours(at)}, changed, rows, self.draws))

    def scores(self, one: Scores, other: Scores) -> Iterator[Difference]:
        changed = {name: one.changed(other, name) for name in one.compared if name in other.compared}
        both = {name: changed[name] for name in changed if name in one.ratios and name in other.ratios}
        yield from self._differ(one.means, other.means, both, one.rows, self.draws)
        rest = {name: changed[name] for name in changed if name not in both}
        yield from self._differ(one.again, other.again, rest, one.rows, draws_again(self.draws, one.rows, 2))

    def _differ(
        self, one: Figures, other: Figures, changed: Mapping[str, int], rows: int, draws: Draws
    ) -> Iterator[Difference]:
        """Of those figures of which it is said how many rows have changed."""
        if not changed:
            return

        def work(places: Sequence[int]) -> dict[str, float]:
            mine, yours = one(places), other(places)
            return {name: mine[name] - yours[name] for name in changed if name in mine and name in yours}

        for name, found in intervals(work, rows, draws).items():
            yield Difference(
                model=self.model,
                reference=self.reference,
                figure=name,
                interval=found,
                rows=rows,
                changed=changed[name],
            )
