"""What all rows add up to: lengths, trained tokens, and why rows were dropped."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import attrs

from ftcore.values import MASKED, Example, Ledger, PreparedData

PERCENTILES = (0, 50, 90, 99, 100)
SAMPLE = 2000
SHOWN_DROPS = 5


@attrs.frozen(kw_only=True)
class Figures:
    """`lengths` are of all training rows; `trained` and `share` of `sampled` ones, since those must be read."""

    lengths: Mapping[str, int]
    trained: Mapping[str, int]
    share: float
    sampled: int


@attrs.frozen(kw_only=True)
class Dropped:
    """How many rows were dropped for one reason, and where the first of them stand."""

    reason: str
    count: int
    origins: Sequence[str]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.origins) else ""
        return f"{self.count} dropped: {self.reason} ({', '.join(self.origins)}{more})"


def figures(data: PreparedData) -> Figures:
    """Lengths of all rows; trained tokens of all, or of a random sample that is the same each time."""
    rows = range(len(data.train))
    chosen = rows if len(rows) <= SAMPLE else sorted(random.Random(0).sample(rows, SAMPLE))  # noqa: S311
    counts = [trained_tokens(data.train[row]) for row in chosen]
    tokens = sum(data.lengths[row] for row in chosen)
    return Figures(
        lengths=percentiles(data.lengths),
        trained=percentiles(counts),
        share=sum(counts) / max(1, tokens),
        sampled=len(counts),
    )


def percentiles(counts: Sequence[int]) -> dict[str, int]:
    """Nearest-rank percentiles."""
    ordered = sorted(counts)
    last = len(ordered) - 1
    return {f"p{percent}": ordered[round(last * percent / 100)] for percent in PERCENTILES} if ordered else {}


def trained_tokens(example: Example) -> int:
    """How many tokens of the row are trained."""
    return sum(label != MASKED for label in example.labels)


def sums(ledger: Ledger, proved: int) -> Iterator[str]:
    """Where the rows went, and how many were proved, a sentence each."""
    yield (
        f"{ledger.rows} rows in = {ledger.trained} trained + {ledger.held_out} held out + {len(ledger.dropped)} dropped"
    )
    yield from (f"  {reason}" for reason in dropped(ledger))
    if ledger.repeated:
        yield f"{ledger.repeated} more in an epoch, since data.weights repeats rows"
    yield f"labels proved on {proved} rows"


def dropped(ledger: Ledger) -> Iterator[Dropped]:
    """Dropped rows by reason."""
    origins: dict[str, list[str]] = {}
    for drop in ledger.dropped:
        origins.setdefault(drop.reason, []).append(drop.origin)
    for reason, rows in origins.items():
        yield Dropped(reason=reason, count=len(rows), origins=rows[:SHOWN_DROPS])
