"""SIGINT and SIGTERM: finish the step and commit while training, leave at once otherwise."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from ftcore.errors import ExitCode, Interrupted

CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.RESUMABLE}


@contextmanager
def raising(number: signal.Signals) -> Iterator[None]:
    """For the time of the block, the signal raises `Interrupted` at once. Outside the main thread it does nothing."""

    def stop(*_: object) -> None:
        raise Interrupted(f"{number.name} received", CODES[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


class StopSignals:
    """Installs the handlers for the time of a run. Outside the main thread it does nothing.

    The first signal raises `Interrupted`, or only sets `requested` while `deferred` is true; a second
    one ends the process at once.
    """

    def __init__(self) -> None:
        self.requested: Interrupted | None = None
        self.deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the time of the block, a signal only sets `requested`."""
        try:
            self.deferred = True
            yield
        finally:
            self.deferred = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        code = CODES[signal.Signals(number)]
        if self.requested is not None:
            os._exit(code)
        self.requested = Interrupted(f"{signal.Signals(number).name} received", code)
        if not self.deferred:
            raise self.requested
