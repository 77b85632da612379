"""For programs: one JSON object a line, with the names of docs/journal.md."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ftcore.files import finite
from ftcore.values import Event, EventKind, Point, Step

SAID, ERROR = "said", "error"
"""Events that are in no file: a line for the user, and what ended the command."""


class Lines:
    """The lines of both files of the journal as they are written, and what is said in between."""

    mode = "json"

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
        self._step = 0

    def stage(self, number: int, total: int, title: str) -> None:
        """A line, also of commands that keep no journal."""
        self._event(EventKind.STAGE, time.time(), {"number": number, "total": total, "title": title})

    def step(self, step: Step) -> None:
        """Nothing; steps that are logged come as points."""
        self._step = step.number

    def point(self, point: Point) -> None:
        """A line."""
        self._line({"step": point.step, "time": round(point.time, 3), **point.metrics})

    def event(self, event: Event) -> None:
        """A line."""
        self._step = event.step
        if event.kind is not EventKind.STAGE:  # told already
            self._event(event.kind, event.time, event.values)

    def say(self, text: str) -> None:
        """A line."""
        self._event(SAID, time.time(), {"text": text})

    def fail(self, text: str, exit_code: int) -> None:
        """The last line of a command that ends early."""
        self._event(ERROR, time.time(), {"text": text, "exit_code": exit_code})

    def close(self) -> None:
        """Nothing is open."""

    def _event(self, name: str, when: float, values: Any) -> None:
        self._line({"event": name, "step": self._step, "time": when, **values})

    def _line(self, line: dict[str, Any]) -> None:
        self._write(json.dumps(finite(line), default=str))
