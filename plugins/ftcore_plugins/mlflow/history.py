"""Which points MLflow has already, where a run goes on from a checkpoint and measures the same steps again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

__all__ = ["History"]

MARKS = ("train/loss", "eval/loss")


@attrs.define
class History:
    """Losses by step, as MLflow has them.

    A resumed run takes some steps again, with the same losses but at another time, and MLflow would draw both. A
    loss that differs is news: something was changed, and both are shown.
    """

    _losses: dict[str, dict[int, list[float]]] = attrs.field(factory=dict)

    @classmethod
    def read(cls, client: Any, run_id: str) -> History:
        """Ask MLflow for it: one request for each 25,000 points."""
        found = cls()
        for mark in MARKS:
            found._note(mark, ((metric.step, metric.value) for metric in client.get_metric_history(run_id, mark)))
        return found

    def has(self, step: int, figures: Mapping[str, float]) -> bool:
        """Whether a point of this step with the same loss is there."""
        mark = next((name for name in MARKS if name in figures), None)
        if mark is None:
            return False
        return any(_same(figures[mark], value) for value in self._losses.get(mark, {}).get(step, ()))

    def _note(self, mark: str, values: Iterable[tuple[int, float]]) -> None:
        steps = self._losses.setdefault(mark, {})
        for step, value in values:
            steps.setdefault(step, []).append(value)


def _same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
