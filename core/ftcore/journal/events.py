"""`events.jsonl`: one JSON object a line, what happened in a run apart from its figures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ftcore.files import finite
from ftcore.journal.lines import is_step, is_torn, number_of, whole_lines
from ftcore.values import Event, EventKind


class EventsLog:
    """Appends to `events.jsonl`; every line is handed to the system at once."""

    def __init__(self, path: Path) -> None:
        torn = is_torn(path)
        self._file: TextIO = path.open("a", encoding="utf-8", errors="backslashreplace")
        if torn:  # or the next line would be lost with it
            self._file.write("\n")

    def write(self, kind: EventKind, step: int, /, **values: Any) -> float:
        """Append one line; its time."""
        when = time.time()
        line = {"event": kind, "step": step, "time": when, **finite(values)}
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self._file.flush()
        return when

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> Iterator[Event]:
    """Every whole line of a kind that is known; a torn last line of a killed run is passed over."""
    for line, _ in whole_lines(path):
        event = event_of(line)
        if event is not None:
            yield event


def event_of(line: dict[str, Any]) -> Event | None:
    """The event of a line; None for a line of another shape, such as a newer version's."""
    values = dict(line)
    kind, step, when = values.pop("event", None), values.pop("step", None), values.pop("time", None)
    moment = number_of(when)
    if kind not in list(EventKind) or not is_step(step) or moment is None or not math.isfinite(moment):
        return None
    return Event(kind=EventKind(kind), step=step, time=moment, values=values)
