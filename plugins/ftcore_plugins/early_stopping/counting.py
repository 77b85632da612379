"""How long a figure has not improved, and how much time a run has taken."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

from ftcore.api import Event, EventKind, Point
from ftcore_plugins.early_stopping.options import LOSSES

SMOOTHED = 20
"""Training steps whose mean loss is compared; single ones are too noisy."""


class Best:
    """The best value of a figure so far, and for how many steps it has not been beaten. A patience of 0 has no end."""

    def __init__(self, metric: str, patience: int, min_delta: float) -> None:
        self._metric, self._patience, self._min_delta = metric, patience, min_delta
        self._sign = 1 if metric in LOSSES else -1
        self._best, self._at = math.inf, 0

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> str:
        """Why to stop; nothing as long as there is hope."""
        value = self._sign * metrics.get(self._metric, math.nan)
        if math.isnan(value):
            return ""
        if value < self._best - self._min_delta or self._best == math.inf:
            self._best, self._at = value, step
        if not self._patience or step - self._at < self._patience:
            return ""
        best = self._sign * self._best
        return f"{self._metric} has not improved on {best:.4g}, of step {self._at}, for {step - self._at} steps"


class Plateau:
    """The same for the mean training loss of the last steps."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._losses: deque[float] = deque(maxlen=SMOOTHED)
        self._best, self._at = math.inf, 0

    def step(self, step: int, loss: float) -> str:
        """Why to stop; nothing as long as there is hope."""
        if not self._patience or math.isnan(loss):
            return ""
        self._losses.append(loss)
        if len(self._losses) < SMOOTHED:
            return ""
        mean = math.fsum(self._losses) / SMOOTHED
        if mean < self._best - self._min_delta or self._best == math.inf:
            self._best, self._at = mean, step
        if step - self._at < self._patience:
            return ""
        return (
            f"the training loss has not improved on {self._best:.4g}, of step {self._at}, for {step - self._at} steps"
        )


def spent(events: Iterable[Event], points: Iterable[Point]) -> float:
    """Seconds that earlier attempts took: each from its first stage to its last sign of life.

    Of points that were cut, since their steps were taken again, the event of that moment has the last time.
    """
    told = [*events]
    begun = [event.time for event in told if event.kind is EventKind.STAGE and event.values.get("number") == 1]
    cut = [until for event in told if isinstance(until := event.values.get("until"), float)]
    signs = sorted([*(event.time for event in told), *(point.time for point in points), *cut])
    attempts = pairwise([*begun, math.inf])
    return math.fsum(max(0.0, signs[bisect_left(signs, after) - 1] - begin) for begin, after in attempts)
