"""Which points MLflow has already, where a run goes on from a checkpoint and measures the same steps again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["History", "mark_of"]

LOSSES = ("train/loss", "eval/loss")


class History:
    """What MLflow had of a run when it was first asked.

    A resumed run takes some steps again, with the same losses but at another time, and MLflow would draw both. A
    loss that differs is news: something was changed, and both are shown.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._known: dict[str, dict[int, list[float]]] = {}

    def has(self, step: int, figures: Mapping[str, float]) -> bool:
        """Whether a point of this step with the same mark is there."""
        mark = mark_of(figures)
        if mark not in self._known:
            self._known[mark] = self._read(mark)
        return any(_same(figures[mark], value) for value in self._known[mark].get(step, ()))

    def _read(self, name: str) -> dict[int, list[float]]:
        """One request for each 25,000 points."""
        found: dict[int, list[float]] = {}
        for metric in self._client.get_metric_history(self._run_id, name):
            found.setdefault(metric.step, []).append(metric.value)
        return found


def mark_of(figures: Mapping[str, float]) -> str:
    """The figure by which a point is known again: its loss if it has one."""
    return next((name for name in LOSSES if name in figures), min(figures))


def _same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
