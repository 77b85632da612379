"""A curve that never grows: however long a run is, it keeps a few hundred means."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs

MOST = 512


@attrs.frozen
class Bucket:
    """The mean of `count` values; `step` is that of the last one."""

    step: int
    mean: float
    count: int = 1

    def joined(self, other: Bucket) -> Bucket:
        """Both in one; `other` is the later one."""
        count = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / count
        return Bucket(other.step, mean, count)


@attrs.frozen
class Curve:
    """Values over steps, each bucket the mean of `width` of them; when there are too many, neighbours are joined."""

    buckets: tuple[Bucket, ...] = ()
    width: int = 1

    @property
    def last_step(self) -> int:
        """The step of the newest value, 0 without any."""
        return self.buckets[-1].step if self.buckets else 0

    def extended(self, step: int, value: float) -> Curve:
        """This curve with one value more."""
        new = Bucket(step, value)
        if self.buckets and self.buckets[-1].count < self.width:
            return attrs.evolve(self, buckets=(*self.buckets[:-1], self.buckets[-1].joined(new)))
        if len(self.buckets) < MOST:
            return attrs.evolve(self, buckets=(*self.buckets, new))
        pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
        return Curve((*(first.joined(second) for first, second in pairs), new), self.width * 2)

    def until(self, step: int) -> Curve:
        """Without what came after `step`."""
        return attrs.evolve(self, buckets=tuple(bucket for bucket in self.buckets if bucket.step <= step))

    def points(self) -> list[tuple[int, float]]:
        """Step and mean of each bucket."""
        return [(bucket.step, bucket.mean) for bucket in self.buckets]


def resampled(values: Sequence[float], count: int) -> list[float]:
    """At most `count` means of neighbours, in order."""
    if len(values) <= count:
        return list(values)
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
