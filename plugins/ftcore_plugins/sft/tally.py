"""What is counted of a step besides its loss. Imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs


@attrs.define
class Tally:
    """A step's rows by `origins`, its trained `tokens`, and its seconds, those among them that it waits for rows."""

    origins: list[str] = attrs.field(factory=list)
    tokens: float = 0
    _waited: float = 0.0
    _began: float | None = None

    def begin(self) -> None:
        """The next step begins when it first waits."""
        self._began = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what the block takes as waiting for rows."""
        start = time.perf_counter()
        if self._began is None:
            self._began, self._waited = start, 0.0
        yield
        self._waited += time.perf_counter() - start

    def metrics(self) -> Mapping[str, float]:
        """What `Step.metrics` holds of it."""
        seconds, tokens = time.perf_counter() - (self._began or 0.0), float(self.tokens)  # a tensor, on a GPU
        return {
            "tokens": tokens,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "seconds": seconds,
            "data_seconds": self._waited,
        }
