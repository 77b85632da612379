"""Sequences over other sequences, which copy nothing: the rows of a set of millions stay in their file."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar, overload

import attrs

from ftcore.values import Row

T = TypeVar("T")


class View(Sequence[T]):
    """A sequence by index; slices are lists."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.at(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self.at(place)

    def at(self, place: int) -> T:
        """The item at `place`, which lies within the sequence."""
        raise NotImplementedError


class Joined(View[T]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, place: int) -> T:
        """See `View`."""
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]

    def part_of(self, place: int) -> int:
        """Which sequence the item at `place` is from."""
        return bisect_right(self._ends, place)


class Chosen(View[T]):
    """The items at some places of a sequence, in their order."""

    def __init__(self, items: Sequence[T], places: array[int]) -> None:
        self._items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def at(self, place: int) -> T:
        """See `View`."""
        return self._items[self.places[place]]


class Renamed(View[Row]):
    """Rows whose columns have the names that `data.columns` gives them."""

    def __init__(self, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
        self._rows, self._columns = rows, columns

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, place: int) -> Row:
        """See `View`."""
        row = self._rows[place]
        renamed = {new: row.values[old] for new, old in self._columns.items() if old in row.values}
        old_names = set(self._columns.values())
        kept: dict[str, Any] = {name: value for name, value in row.values.items() if name not in old_names}
        return attrs.evolve(row, values={**kept, **renamed})
