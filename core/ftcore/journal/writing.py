"""Both files of a run's journal, as the run writes them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ftcore.journal.events import EventsLog
from ftcore.journal.metrics import MetricsLog, cut_metrics, last_time
from ftcore.values import Event, EventKind, Point

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class Listener(Protocol):
    """Told what was written, once it is."""

    def point(self, point: Point) -> None:
        """A line of `metrics.jsonl`."""

    def event(self, event: Event) -> None:
        """A line of `events.jsonl`."""


class Journal:
    """Writes down what a run in `folder` measures, and what happens in it. A context manager.

    `metrics.jsonl` is cut to the step that training begins from; `events.jsonl` is history and never cut.
    """

    def __init__(self, folder: Path, listener: Listener | None = None) -> None:
        self.step = 0
        self._listener = listener
        self._path = folder / METRICS
        self._metrics: MetricsLog | None = None
        self._events = EventsLog(folder / EVENTS)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, from_step: int, total_steps: int) -> None:
        """Training begins, or goes on. Points can be written from now on."""
        self.step = from_step
        until = last_time(self._path)
        kept = cut_metrics(self._path, from_step)
        self._metrics = MetricsLog(self._path)
        values = {"from_step": from_step, "total_steps": total_steps, "metrics_bytes": kept, "until": until}
        self.event(EventKind.STARTED, **values)

    def stepped(self, step: int) -> None:
        """Events from now on come after `step`."""
        self.step = step

    def point(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`."""
        assert self._metrics is not None, "begin comes first"  # noqa: S101
        when = self._metrics.write(step, metrics)
        if self._listener is not None:
            self._listener.point(Point(step=step, time=when, metrics=metrics))

    def event(self, kind: EventKind, /, **values: Any) -> None:
        """A line of `events.jsonl`."""
        when = self._events.write(kind, self.step, **values)
        if self._listener is not None:
            self._listener.event(Event(kind=kind, step=self.step, time=when, values=values))

    def close(self) -> None:
        """Close the files, both of them, also on a full disk."""
        with closing(self._events):
            if self._metrics is not None:
                self._metrics.close()
