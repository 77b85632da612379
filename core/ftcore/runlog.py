"""`run.log`: what the display said, with the time, and what libraries logged."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

from ftcore.display import Display
from ftcore.values import Step

FILE = "run.log"
LOGGERS = ("", "transformers")  # the second one does not pass its records on


class RunLog:
    """A display that also writes each line to the run folder. Steps are in `metrics.jsonl`.

    A context manager: however its block ends, the terminal and the root logger are left in order.
    """

    def __init__(self, folder: Path, display: Display) -> None:
        self._display = display
        self._handler = logging.FileHandler(folder / FILE, encoding="utf-8")
        self._handler.setLevel(logging.WARNING)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))

    def __enter__(self) -> RunLog:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()

    def stage(self, number: int, total: int, title: str) -> None:
        """Shown and written."""
        self._write(f"[{number}/{total}] {title}")
        self._display.stage(number, total, title)

    def step(self, step: Step) -> None:
        """Shown."""
        self._display.step(step)

    def say(self, text: str) -> None:
        """Shown and written."""
        self._write(text)
        self._display.say(text)

    def close(self) -> None:
        """Training is over; lines may follow."""
        self._display.close()

    def _write(self, text: str) -> None:
        self._handler.emit(logging.LogRecord("ftcore", logging.INFO, "", 0, "%s", (text,), None))
