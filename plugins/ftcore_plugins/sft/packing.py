"""Which rows are laid end to end in one sequence. Imports numpy."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from ftcore.api import Example

Numbers: TypeAlias = NDArray[np.int32]


@attrs.frozen(kw_only=True)
class Bins:
    """Which rows lie in which bin.

    The rows of bin `b` are `rows[starts[b]:starts[b + 1]]`, the longest first, and have `lengths[b]` tokens
    together. Every row is in one bin.
    """

    rows: Numbers
    starts: Numbers
    lengths: Numbers


def best_fit(lengths: Sequence[int] | Numbers, capacity: int, seed: int) -> Bins:
    """Put each row, the longest first, into the bin with the least room that is enough for it.

    Best-fit-decreasing, as in "Fewer Truncations Improve Language Modeling" (https://arxiv.org/abs/2404.10830),
    but all rows of one length at a time: the work grows with the number of different lengths rather than
    rows, after one sort. Which of the rows of equal length go where follows from the seed; how many bins there
    are does not. No row may be longer than `capacity`.
    """
    sizes: Numbers = np.asarray(lengths, dtype=np.int32)
    shuffled = np.random.default_rng(seed).permutation(len(sizes)).astype(np.int32)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    bin_of = _bins_of(sizes[order], capacity)
    count = int(bin_of.max(initial=-1)) + 1
    rows = order[np.argsort(bin_of, kind="stable")]
    starts = np.concatenate(([0], np.cumsum(np.bincount(bin_of, minlength=count))))
    tokens = np.add.reduceat(sizes[rows], starts[:-1]) if count else sizes[:0]
    return Bins(rows=rows, starts=starts.astype(np.int32), lengths=tokens.astype(np.int32))


def _bins_of(sizes: Numbers, capacity: int) -> Numbers:
    """The bin of each row; rows come by falling size."""
    openings = _Openings(capacity)
    bins: list[Numbers] = [np.zeros(0, np.int32)]
    falling, counts = np.unique(-sizes, return_counts=True)
    for size, count in zip((-falling).tolist(), counts.tolist(), strict=True):
        bins += openings.fill(size, count)
    return np.concatenate(bins)


class _Openings:
    """Bins by the room that they have left."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._bins: dict[int, list[Numbers]] = {}
        self._rooms: list[int] = []  # those of `_bins`, in order
        self._made = 0

    def fill(self, size: int, count: int) -> Iterator[Numbers]:
        """The bins that `count` rows of one size go to, one after the other.

        The bin with the least room that is enough stays so while it takes rows of the same size: each takes as
        many as fit.
        """
        while count:
            room = self._least(size)
            fit = room // size
            bins = self._take(room, -(-count // fit))
            placed = min(count, fit * len(bins))
            count -= placed
            self._put(room - size * fit, bins[:-1])
            self._put(room - size * (placed - fit * (len(bins) - 1)), bins[-1:])
            yield np.repeat(bins, fit)[:placed]

    def _least(self, size: int) -> int:
        place = bisect_left(self._rooms, size)
        return self._rooms[place] if place < len(self._rooms) else self._capacity

    def _take(self, room: int, most: int) -> Numbers:
        """At most so many bins with this room; new ones if none is open with it."""
        if room not in self._bins:
            self._made += most
            return np.arange(self._made - most, self._made, dtype=np.int32)
        stack = self._bins[room]
        bins = stack.pop()
        if len(bins) > most:
            stack.append(bins[most:])
        if not stack:
            del self._bins[room], self._rooms[bisect_left(self._rooms, room)]
        return bins[:most]

    def _put(self, room: int, bins: Numbers) -> None:
        if not room or not len(bins):
            return
        if room not in self._bins:
            self._bins[room] = []
            insort(self._rooms, room)
        self._bins[room].append(bins)


@attrs.frozen
class Packed:
    """A training row for each bin: its examples, read when they are asked for."""

    examples: Sequence[Example]
    bins: Bins

    def __len__(self) -> int:
        return len(self.bins.lengths)

    def __getitem__(self, number: int) -> list[Example]:
        start, stop = self.bins.starts[number : number + 2]
        return [self.examples[row] for row in self.bins.rows[start:stop].tolist()]
