"""Which tokens of which rows the models are compared at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import attrs

from ftcore.api import MASKED, Example, PreparedData

ROWS = 8
"""Rows that are read for it: a few, since each costs a pass of every runtime."""

LONGEST = 1024
"""Tokens of a row that are kept."""

END_TO_END = 512
"""Tokens of all rows in one sequence: what is wrong with positions, such as lost rope scaling, shows late in a text."""

LATE = 6
"""One of so many positions is in that sequence."""


@attrs.frozen(kw_only=True)
class Asked:
    """A row as token ids, and after which of them the next one is asked for: trained ones, and all of them."""

    ids: tuple[int, ...]
    trained: tuple[int, ...]

    @property
    def others(self) -> tuple[int, ...]:
        """Positions that are followed by a token that was not trained; the row's end is one."""
        trained = set(self.trained)
        return tuple(position for position in range(len(self.ids)) if position not in trained)

    def cut(self, length: int) -> Asked:
        """The same, but not longer."""
        return Asked(ids=self.ids[:length], trained=tuple(place for place in self.trained if place < length))


def rows_to_ask(data: PreparedData) -> Sequence[Example]:
    """A few held-out rows, or rows of the training set if none are held out."""
    return list((data.validation or data.train)[:ROWS])


def as_asked(example: Example, left_out: frozenset[int]) -> Asked:
    """A row without the tokens that stand for an image, which is not shown, and not longer than `LONGEST`."""
    pairs = [
        (token, label) for token, label in zip(example.input_ids, example.labels, strict=True) if token not in left_out
    ]
    kept = _shortened(pairs)
    trained = [place for place, (_, (_, label)) in enumerate(pairwise(kept)) if label != MASKED]
    return Asked(ids=tuple(token for token, _ in kept), trained=tuple(trained))


def end_to_end(rows: Sequence[Asked], positions: int) -> Asked:
    """All rows, again and again, as one that fills what a model of so many positions can read."""
    ids = [token for row in rows for token in row.ids]
    length = min(END_TO_END, positions)
    return Asked(ids=tuple((ids * (length // len(ids) + 1))[:length]), trained=())


def asked_at(rows: Sequence[Asked], whole: Asked, count: int) -> Iterator[tuple[Asked, tuple[int, ...]]]:
    """Which rows are asked, each with its positions in order: `count` in all, a few of them late in the whole."""
    late = count // LATE
    yield from shared_out(rows, count - late)
    if late:
        yield whole, tuple(_spread(range(len(whole.ids) // 2, len(whole.ids)), late))


def _shortened(pairs: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The row's first token, which some models cannot do without, and what is around the first trained one."""
    first = next((place for place, (_, label) in enumerate(pairs) if label != MASKED), 0)
    end = min(len(pairs), max(LONGEST, first + LONGEST // 2))
    start = max(1, end - LONGEST + 1)
    return [*pairs[:1], *pairs[start:end]]


def shared_out(rows: Sequence[Asked], count: int) -> Iterator[tuple[Asked, tuple[int, ...]]]:
    """Each row with its share of `count` positions, in order; trained ones of all rows go first."""
    trained = _shares([len(row.trained) for row in rows], count)
    others = _shares([len(row.others) for row in rows], count - sum(trained))
    for row, first, second in zip(rows, trained, others, strict=True):
        if first + second:
            yield row, tuple(sorted([*_spread(row.trained, first), *_spread(row.others, second)]))


def _shares(there: Sequence[int], count: int) -> list[int]:
    """At most `count` in all, as evenly as what is there allows."""
    shares = [0] * len(there)
    while count > 0 and any(share < most for share, most in zip(shares, there, strict=True)):
        for index, most in enumerate(there):
            if shares[index] < most and count > 0:
                shares[index] += 1
                count -= 1
    return shares


def _spread(places: Sequence[int], count: int) -> Sequence[int]:
    """So many of them, from the first to the last at even distances."""
    if count <= 1:
        return list(places[:count])
    return [places[round(index * (len(places) - 1) / (count - 1))] for index in range(count)]
