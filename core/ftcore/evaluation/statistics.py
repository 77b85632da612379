"""How sure a figure is: bootstrap intervals over rows, for one model and for what two differ by.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the figure is worked out again on as many
rows drawn with replacement, many times; between two percentiles lies the interval. Those of few rows lie farther out
than 2.5% and 97.5%, or it would be too short: Hesterberg, What Teachers Should Know About the Bootstrap, The American
Statistician 69 (2015), section 5.3, the expanded percentile interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import attrs

LEVEL = 0.95
DRAWS = 1000
METHOD = "expanded percentile bootstrap over rows"
FEWEST_ROWS = 6
"""Fewer rows that differ prove nothing: five that all differ the same way do so by chance in 1 of 16 cases."""

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

    def changed(self, other: Ratio) -> int:
        """How many rows have another part in the other one."""
        mine, yours = (zip(each.tops, each.bottoms, strict=True) for each in (self, other))
        return sum(one != two for one, two in zip(mine, yours, strict=True))


def interval(figure: Figure, rows: int, draws: Draws) -> Interval:
    """The figure on all rows, and its bootstrap interval."""
    return intervals(lambda places: {"": figure(places)}, rows, draws)[""]


def intervals(figures: Figures, rows: int, draws: Draws) -> dict[str, Interval]:
    """Intervals of several figures that are worked out together. A draw that lacks one of them is left out for it.

    A figure that is no number has no interval: draws without the row that spoils it would speak of other rows.
    """
    whole = figures(range(rows))
    drawn: dict[str, list[float]] = {name: [] for name, value in whole.items() if math.isfinite(value)}
    for places in draws.of(rows):
        for name, value in figures(places).items():
            if name in drawn and math.isfinite(value):
                drawn[name].append(value)
    rest = outside(rows)
    return {name: _interval(value, sorted(drawn.get(name, [])), rest) for name, value in whole.items()}


def outside(rows: int) -> float:
    """The share of draws beyond each end: 2.5% of many rows, 0.2% of six."""
    if rows < 2:  # noqa: PLR2004 - all draws of one row are that row
        return (1 - LEVEL) / 2
    return NormalDist().cdf(-math.sqrt(rows / (rows - 1)) * _student(rows - 1))


def _student(degrees: int) -> float:
    """The quantile of Student's t that leaves out as much: Abramowitz and Stegun 26.7.5, to 0.1% from 5 degrees on."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))


def _interval(value: float, drawn: Sequence[float], rest: float) -> Interval:
    return Interval(value=value, low=_quantile(drawn, rest), high=_quantile(drawn, 1 - rest), draws=len(drawn))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest values, in proportion."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
