"""How many rows have how many tokens, drawn as an inline SVG: no script, no style of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import attrs

BINS = 48
FEWEST = 24
NEAR = 1.25
WIDTH, HEIGHT = 760, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 62, 26
LINE = 14
MARKED = ("p50", "p90", "p99")


@attrs.frozen(kw_only=True)
class Histogram:
    """`counts[i]` rows have `start + i * width` tokens or more, and less than the next bin's."""

    start: int
    width: int
    counts: Sequence[int]

    @property
    def end(self) -> int:
        """The first number of tokens behind the last bin."""
        return self.start + self.width * len(self.counts)


def histogram(lengths: Sequence[int], limit: int = 0) -> Histogram:
    """Bins of a round width over all lengths, and up to `limit` where it is near."""
    low, high = min(lengths), max(lengths)
    if high < limit <= max(high * NEAR, 2 * high - low):
        high = limit
    width = _round_up((high - low + 1) / BINS)
    start = low // width * width
    size = (high - start) // width + 1
    spare = max(0, FEWEST - size)
    before = min(spare // 2, start // width)
    counts = [0] * (size + spare)
    for length in lengths:
        counts[(length - start) // width + before] += 1
    return Histogram(start=start - before * width, width=width, counts=counts)


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = int(10 ** math.floor(math.log10(max(1.0, width))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width)


def drawn(lengths: Sequence[int], percentiles: Mapping[str, int], limit: int) -> str:
    """The picture. `limit` is `train.max_length`, which is marked if it is near; 0 for none."""
    bins = histogram(lengths, limit)
    marks = [(f"{names}: {value:,}", value, "mark") for value, names in _named(percentiles).items()]
    if bins.start <= limit < bins.end:
        marks.append((f"max_length: {limit:,}", limit, "mark limit"))
    parts = [
        *_bars(bins),
        *_axis(bins),
        *(line for place, mark in enumerate(marks) for line in _mark(bins, place, *mark)),
    ]
    title = f"{len(lengths):,} training rows by number of tokens"
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _named(percentiles: Mapping[str, int]) -> dict[int, str]:
    """The marked percentiles by value, since one line is enough for those that are the same."""
    names: dict[int, list[str]] = {}
    for name in MARKED:
        names.setdefault(percentiles[name], []).append(name)
    return {value: ", ".join(same) for value, same in names.items()}


def _x(bins: Histogram, tokens: float) -> float:
    return LEFT + (tokens - bins.start) / (bins.end - bins.start) * (WIDTH - LEFT - RIGHT)


def _bars(bins: Histogram) -> Iterator[str]:
    room, most = HEIGHT - TOP - BOTTOM, max(bins.counts)
    for place, count in enumerate(bins.counts):
        if not count:
            continue
        first = bins.start + place * bins.width
        left, right = _x(bins, first), _x(bins, first + bins.width)
        tall = max(1.5, count / most * room)
        tokens = f"{first:,}" if bins.width == 1 else f"{first:,} to {first + bins.width - 1:,}"
        yield (
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{right - left - 1:.1f}" '
            f'height="{tall:.1f}"><title>{tokens} tokens: {count:,} rows</title></rect>'
        )


def _axis(bins: Histogram) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP}" y2="{TOP}"/>'
    yield f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{max(bins.counts):,}</text>'
    yield f'<text x="{LEFT - 6}" y="{floor + 4}" text-anchor="end">0</text>'
    step = _round_up((bins.end - bins.start) / 8)
    for tokens in range(math.ceil(bins.start / step) * step, bins.end, step):
        yield f'<text x="{_x(bins, tokens):.1f}" y="{floor + 16}" text-anchor="middle">{tokens:,}</text>'


def _mark(bins: Histogram, place: int, label: str, tokens: int, kind: str) -> Iterator[str]:
    """A line at the middle of the value's own bin unit, its label on a line of text of its own."""
    x, y = _x(bins, tokens + 0.5), LINE * (place + 1)
    left = x > WIDTH * 0.8
    yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{HEIGHT - BOTTOM}"/>'
    yield f'<text x="{x + (-5 if left else 5):.1f}" y="{y}" text-anchor="{"end" if left else "start"}">{label}</text>'
