"""Which micro-batches to try, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Try:
    """A micro-batch of `rows` rows, tried. `memory` is its peak in GiB; `speed` counts trained tokens a second.

    `reason` says why it does not fit.
    """

    rows: int
    fits: bool
    memory: float | None = None
    speed: float | None = None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "micro_batch_size": self.rows,
            "fits": self.fits,
            "memory": self.memory,
            "tokens_per_second": self.speed,
            "reason": self.reason,
        }


def search(limit: int, batch: int, attempt: Callable[[int], Try]) -> list[Try]:
    """Try micro-batches up to `limit`: powers of two while they fit, then halves of what is left between.

    At the end the largest divisor of `batch` that must fit is tried, too: no other may be used with it.
    """
    tries: dict[int, Try] = {}
    fits, fails = 0, limit + 1
    while fits < fails - 1:
        rows = (fits + fails) // 2 if fails <= limit else min(max(1, 2 * fits), limit)
        tries[rows] = attempt(rows)
        fits, fails = (rows, fails) if tries[rows].fits else (fits, rows)
    usable = next((rows for rows in range(fits, 0, -1) if batch % rows == 0), 0)
    if usable and usable not in tries:
        tries[usable] = attempt(usable)
    return [tries[rows] for rows in sorted(tries)]


def fastest(tries: Sequence[Try], batch: int) -> Try | None:
    """The fastest of those that fit and divide `batch`; among equals the smallest. None if none fits.

    Where a trainer does not tell its speed, the largest: it has the fewest parts to a step.
    """
    usable = [done for done in tries if done.fits and batch % done.rows == 0]
    if all(done.speed is None for done in usable):
        return largest(usable)
    return max(usable, key=lambda done: (done.speed or 0.0, -done.rows))


def largest(tries: Sequence[Try]) -> Try | None:
    """The largest that fits, or None."""
    return max((done for done in tries if done.fits), key=lambda done: done.rows, default=None)
