"""Both files of a run's journal, as the run writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ftcore.journal.events import EventsLog
from ftcore.journal.metrics import MetricsLog, cut_metrics
from ftcore.values import EventKind

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class Journal:
    """Writes down what a run in `folder` measures, and what happens in it. A context manager.

    `metrics.jsonl` is cut to the step that training begins from; `events.jsonl` is history and never cut.
    """

    def __init__(self, folder: Path) -> None:
        self.step = 0
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
        kept = cut_metrics(self._path, from_step)
        self._metrics = MetricsLog(self._path)
        self.event(EventKind.STARTED, from_step=from_step, total_steps=total_steps, metrics_bytes=kept)

    def stepped(self, step: int) -> None:
        """Events from now on come after `step`."""
        self.step = step

    def point(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`."""
        assert self._metrics is not None, "begin comes first"  # noqa: S101
        self._metrics.write(step, metrics)

    def event(self, kind: EventKind, /, **values: Any) -> None:
        """A line of `events.jsonl`."""
        self._events.write(kind, self.step, **values)

    def close(self) -> None:
        """Close the files."""
        for log in (self._metrics, self._events):
            if log is not None:
                log.close()
