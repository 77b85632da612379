"""How sure a figure is: bootstrap intervals over rows, for one model and for what two differ by.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the figure is worked out again on as many
rows drawn with replacement, many times; between the 2.5th and the 97.5th percentile lie 95% of what came out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

LEVEL = 0.95
DRAWS = 1000
FEWEST_ROWS = 6
"""Fewer rows prove no difference: five that all differ the same way do so by chance in 1 of 16 cases."""

Figure = Callable[[Sequence[int]], float]
"""A figure of the rows at these places, of which some may be there several times."""

Figures = Callable[[Sequence[int]], Mapping[str, float]]
"""Several figures of them, by name."""


@attrs.frozen(kw_only=True)
class Interval:
    """A figure, and where it may lie: `low` to `high`, from so many `draws`. They are NaN where no draw has one."""

    value: float
    low: float
    high: float
    draws: int

    def through(self, function: Callable[[float], float]) -> Interval:
        """The interval of a growing function of the figure."""
        return attrs.evolve(self, value=function(self.value), low=function(self.low), high=function(self.high))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class Draws:
    """How rows are drawn: equal ones draw the same rows of as many, so that what is compared is paired."""

    count: int = DRAWS
    seed: int = 0

    def of(self, rows: int) -> Iterator[list[int]]:
        """Each draw: as many places as there are rows."""
        numbers = random.Random(self.seed)  # noqa: S311
        places = range(rows)
        return (numbers.choices(places, k=rows) for _ in range(self.count))

    def at_most(self, count: int) -> Draws:
        """Fewer draws, where one costs much."""
        return attrs.evolve(self, count=min(self.count, count))


@attrs.frozen
class Ratio:
    """Sum over sum: nats over tokens, or what rows score over how many of them have that score."""

    tops: Sequence[float]
    bottoms: Sequence[float]

    def __call__(self, places: Sequence[int]) -> float:
        """The ratio on these rows; NaN where the bottom is nothing."""
        bottom = sum(map(self.bottoms.__getitem__, places))  # a thousand times over all rows: in C
        return sum(map(self.tops.__getitem__, places)) / bottom if bottom else math.nan


def interval(figure: Figure, rows: int, draws: Draws) -> Interval:
    """The figure on all rows, and its bootstrap interval."""
    return intervals(lambda places: {"": figure(places)}, rows, draws)[""]


def intervals(figures: Figures, rows: int, draws: Draws) -> dict[str, Interval]:
    """Intervals of several figures that are worked out together. A draw that lacks one of them is left out for it."""
    whole = figures(range(rows))
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for places in draws.of(rows):
        for name, value in figures(places).items():
            if name in drawn and math.isfinite(value):
                drawn[name].append(value)
    return {name: _interval(value, sorted(drawn[name])) for name, value in whole.items()}


def _interval(value: float, drawn: Sequence[float]) -> Interval:
    rest = (1 - LEVEL) / 2
    return Interval(value=value, low=_quantile(drawn, rest), high=_quantile(drawn, 1 - rest), draws=len(drawn))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest values, in proportion."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
