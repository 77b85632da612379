"""Sums over the last steps, kept up to date without adding them all up again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

CLOSEST = 0.95
"""Most that neighbours are taken to have in common."""


class Window:
    """The last `size` values, with their mean and its standard error."""

    def __init__(self, size: int) -> None:
        self.values: deque[float] = deque(maxlen=size)
        self._sum = 0.0
        self._squares = 0.0
        self._jumps = 0.0  # squares of what lies between neighbours

    def add(self, value: float) -> None:
        """Take a value in, and the oldest one out of a full window."""
        if len(self.values) == self.values.maxlen:
            oldest = self.values.popleft()
            self._sum -= oldest
            self._squares -= oldest * oldest
            self._jumps -= (self.values[0] - oldest) ** 2
        if self.values:
            self._jumps += (value - self.values[-1]) ** 2
        self.values.append(value)
        self._sum += value
        self._squares += value * value

    @property
    def full(self) -> bool:
        """Whether nothing is missing."""
        return len(self.values) == self.values.maxlen

    @property
    def mean(self) -> float:
        """Mean of what is there; 0 of nothing."""
        return self._sum / max(1, len(self.values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        count = len(self.values)
        return standard_error(count, self._squares / max(1, count) - self.mean**2, self._jumps / max(1, count - 1))


def median(values: Sequence[float]) -> float:
    """The upper median: a value that is there. Of nothing, 0."""
    return sorted(values)[len(values) // 2] if values else 0.0


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of at least two values, and its standard error."""
    window = Window(len(values))
    for value in values:
        window.add(value)
    return window.mean, window.error


def standard_error(count: int, variance: float, jumps: float) -> float:
    """Of a mean, whose values may follow each other: the noise of a loss is not new in each step.

    `jumps` is the mean square of what lies between neighbours, which tells how much they have in common (von Neumann
    1941, https://doi.org/10.1214/aoms/1177731677).
    """
    if variance <= 0 or not count:  # also what rounding has made of 0
        return 0.0
    common = min(CLOSEST, max(0.0, 1 - jumps / (2 * variance)))
    return math.sqrt(variance / count * (1 + common) / (1 - common))
