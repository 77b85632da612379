"""What a run measured, name by name, and what a page draws of it: no extreme is lost, however long the run."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from statistics import median
from typing import Any

import attrs

from ftcore.values import Point

MOST_POINTS = 4_000
ALL_POINTS = 56_000
LEAST_POINTS = 200
DIGITS = 6


@attrs.frozen(kw_only=True)
class Summary:
    """A curve in a line. `least` and `most` are each a value with its step; None where nothing is a number."""

    points: int
    missing: int
    first: float | None = None
    last: float | None = None
    mean: float | None = None
    median: float | None = None
    least: tuple[float, int] | None = None
    most: tuple[float, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        low, high = self.least or (None, None), self.most or (None, None)
        return {
            **{name: getattr(self, name) for name in ("points", "missing", "first", "last", "mean", "median")},
            "min": low[0],
            "min_step": low[1],
            "max": high[0],
            "max_step": high[1],
        }


@attrs.frozen(kw_only=True)
class Curve:
    """The values of one name, at steps that rise. What was not a number is NaN."""

    steps: Sequence[int]
    values: Sequence[float]

    @cached_property
    def summary(self) -> Summary:
        """The curve in a line."""
        known = [value for value in self.values if math.isfinite(value)]
        if not known:
            return Summary(points=len(self.values), missing=len(self.values))
        return Summary(
            points=len(self.values),
            missing=len(self.values) - len(known),
            first=known[0],
            last=known[-1],
            mean=mean(known),
            median=median(known),
            least=self._first(min(known)),
            most=self._first(max(known)),
        )

    def _first(self, value: float) -> tuple[float, int]:
        """The value, and the first step that has it."""
        return value, self.steps[self.values.index(value)]


def mean(values: Sequence[float]) -> float:
    """The parts are summed, since the sum of large numbers may be beyond all numbers."""
    count = len(values)
    return math.fsum([value / count for value in values])


@attrs.frozen(kw_only=True)
class Drawn:
    """What is drawn of a curve: all of it, or the lowest and highest value of each stretch of steps.

    `means` are those of the stretches, at their middles, which are smoothed in place of the extremes; empty for a
    curve that is drawn whole.
    """

    steps: Sequence[int]
    values: Sequence[float]
    means: tuple[Sequence[int], Sequence[float]] = ((), ())

    def as_json(self) -> dict[str, Any]:
        """For the page's script: figures of six digits, null for what is not a number."""
        steps, means = self.means
        known = {"steps": list(self.steps), "values": _short(self.values)}
        return {**known, "means": {"steps": list(steps), "values": _short(means)}} if len(steps) else known


def curves_of(points: Iterable[Point]) -> dict[str, Curve]:
    """Every name's curve. Of a step that comes twice, the later value counts."""
    steps: dict[str, array[int]] = {}
    values: dict[str, array[float]] = {}
    for point in points:
        for name, value in point.metrics.items():
            if name not in steps:
                steps[name], values[name] = array("q"), array("d")
            steps[name].append(point.step)
            values[name].append(value)
    return {name: _rising(steps[name], values[name]) for name in steps}


def _rising(steps: array[int], values: array[float]) -> Curve:
    if any(map(operator.le, islice(steps, 1, None), steps)):  # a million pairs: in C
        latest = dict(sorted(dict(zip(steps, values, strict=True)).items()))
        steps, values = array("q", latest.keys()), array("d", latest.values())
    return Curve(steps=steps, values=values)


def most_points(curves: Sequence[Curve]) -> int:
    """How many points of each curve a page has room for: the more curves, the fewer."""
    most = MOST_POINTS
    while most > LEAST_POINTS and sum(min(most, len(curve.steps)) for curve in curves) > ALL_POINTS:
        most = most * 4 // 5
    return most


def drawn(curve: Curve, most: int = MOST_POINTS) -> Drawn:
    """The curve with `most` points or hardly more, and every extreme of each stretch at its own step."""
    if len(curve.steps) <= most:
        return Drawn(steps=curve.steps, values=curve.values)
    kept: list[int] = []
    middles, means = [], []
    for stretch in _stretches(curve.steps, max(1, most // 2)):
        kept += _extremes(curve.values, stretch)
        finite = [curve.values[place] for place in stretch if math.isfinite(curve.values[place])]
        if finite:
            middles.append(curve.steps[stretch[len(stretch) // 2]])
            means.append(mean(finite))
    places = sorted({0, *kept, len(curve.steps) - 1})
    return Drawn(
        steps=[curve.steps[place] for place in places],
        values=[curve.values[place] for place in places],
        means=(middles, means),
    )


def _stretches(steps: Sequence[int], count: int) -> Iterator[range]:
    """Places of points whose steps lie in the same of `count` equal parts of the run; none for an empty part."""
    low, width = steps[0], (steps[-1] - steps[0] + 1) / count
    start, part = 0, 0
    for place, step in enumerate(steps):
        here = int((step - low) / width)
        if here != part:
            yield range(start, place)
            start, part = place, here
    yield range(start, len(steps))


def _extremes(values: Sequence[float], stretch: range) -> list[int]:
    """Places of the lowest and the highest value, and of the first one that is not a number."""
    finite = [place for place in stretch if math.isfinite(values[place])]
    missing = [] if len(finite) == len(stretch) else [next(p for p in stretch if not math.isfinite(values[p]))]
    return [min(finite, key=values.__getitem__), max(finite, key=values.__getitem__), *missing] if finite else missing


def _short(values: Sequence[float]) -> list[float | int | None]:
    return [_rounded(value) for value in values]


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short  # noqa: PLR2004
