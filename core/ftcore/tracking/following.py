"""What the journal says that a tracker has not been given yet, in the order in which it happened."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ftcore.errors import RunError
from ftcore.journal.events import event_of
from ftcore.journal.lines import last_lines, whole_lines
from ftcore.journal.metrics import point_of
from ftcore.journal.writing import EVENTS, METRICS
from ftcore.manifest import read_manifest
from ftcore.tracking.cursor import Cursor
from ftcore.values import Event, EventKind, Point, RunState

T = TypeVar("T")

BATCH = 1000
"""Points that are given at once, at most."""

LOOKS = 10
"""How often both files are looked at to find a moment at which neither grows."""

KILLED = "the run was killed"


@attrs.frozen(kw_only=True)
class News:
    """Points, or one event, and where the cursor is once they are sent."""

    points: tuple[Point, ...] = ()
    event: Event | None = None
    after: Cursor


@attrs.frozen
class _Line:
    """One line of either file, with the byte behind it."""

    what: Point | Event
    place: int

    @property
    def moment(self) -> float:
        """When it was written, in milliseconds, as points have it."""
        return round(self.what.time, 3)

    def order(self, beginnings: Collection[float]) -> tuple[float, int]:
        """By time. What happens in the millisecond of a `started` comes before what its run measures, else behind."""
        if isinstance(self.what, Point):
            return self.moment, 1
        return self.moment, 0 if self.moment in beginnings else 2


def news(folder: Path, cursor: Cursor) -> Iterator[News]:
    """Everything behind `cursor` that is written by now, points of several steps together."""
    metrics_end, events_end = _ends(folder)
    cursor, events = _behind(folder, cursor, events_end)
    points = _lines(folder / METRICS, cursor.metrics_bytes, metrics_end, point_of)
    waiting: list[_Line] = []
    begun = {line.moment for line in events if isinstance(line.what, Event) and line.what.kind is EventKind.STARTED}
    for line in heapq.merge(events, points, key=lambda line: line.order(begun)):
        if isinstance(line.what, Point):
            waiting.append(line)
        if waiting and (isinstance(line.what, Event) or len(waiting) == BATCH):
            yield (given := _points(cursor, waiting))
            cursor, waiting = given.after, []
        if isinstance(line.what, Event):
            yield (given := _event(cursor, line.what, line.place))
            cursor = given.after
    if waiting:
        yield _points(cursor, waiting)


def ending(folder: Path) -> tuple[RunState, str]:
    """How the run in `folder` has ended, and why; without a word it was killed, and has failed."""
    for event in filter(None, map(event_of, last_lines(folder / EVENTS))):
        if event.kind is EventKind.ENDED:
            return _state_of(event)
        if event.kind in (EventKind.STAGE, EventKind.STARTED):  # it went on
            break
    return _of_manifest(folder)


def _of_manifest(folder: Path) -> tuple[RunState, str]:
    """What is written before the last event; a kill, or a full disk, may have come in between."""
    with suppress(RunError):
        manifest = read_manifest(folder)
        if manifest.state != RunState.RUNNING:
            return RunState(manifest.state), manifest.reason
    return RunState.FAILED, KILLED


def left(folder: Path, cursor: Cursor) -> tuple[int, int]:
    """How many points and events are behind `cursor`."""
    metrics_end, events_end = _ends(folder)
    cursor, events = _behind(folder, cursor, events_end)
    points = _lines(folder / METRICS, cursor.metrics_bytes, metrics_end, point_of)
    return sum(1 for _ in points), len(events)


def _ends(folder: Path) -> tuple[int, int]:
    """The lengths of both files at one moment: no event is missing that came before a point."""
    events = _size(folder / EVENTS)
    for _ in range(LOOKS):
        metrics, before = _size(folder / METRICS), events
        events = _size(folder / EVENTS)
        if events == before:
            break
    return metrics, events


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _lines(path: Path, start: int, end: int, value: Callable[[dict[str, Any]], T | None]) -> Iterator[_Line]:
    if start >= end:
        return
    for line, place in whole_lines(path, start):
        if place > end:
            return
        what = value(line)
        if isinstance(what, Point | Event):
            yield _Line(what, place)


def _behind(folder: Path, cursor: Cursor, events_end: int) -> tuple[Cursor, list[_Line]]:
    """Where to go on from, and the events that follow there.

    A run that went on from a checkpoint has cut its metrics, and written over what may have been sent.
    """
    start = _line_start(folder / EVENTS, cursor.events_bytes)
    events = list(_lines(folder / EVENTS, start, events_end, event_of))
    cut = [line.what.values.get("metrics_bytes") for line in events if isinstance(line.what, Event)]
    place = min([cursor.metrics_bytes, *(place for place in cut if type(place) is int and place >= 0)])
    return attrs.evolve(cursor, events_bytes=start, metrics_bytes=_line_start(folder / METRICS, place)), events


def _line_start(path: Path, place: int) -> int:
    """`place`, if a line begins there; else another file has been put there, which is sent from its start."""
    if not place or not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(place - 1)
        return place if file.read(1) == b"\n" else 0


def _points(cursor: Cursor, lines: list[_Line]) -> News:
    points = tuple(line.what for line in lines if isinstance(line.what, Point))
    return News(points=points, after=attrs.evolve(cursor, metrics_bytes=lines[-1].place, sent=points[-1].step))


def _event(cursor: Cursor, event: Event, place: int) -> News:
    begun = event.values.get("from_step") if event.kind is EventKind.STARTED else None
    sent = min(cursor.sent, begun) if type(begun) is int else cursor.sent
    return News(event=event, after=attrs.evolve(cursor, events_bytes=place, sent=sent))


def _state_of(event: Event) -> tuple[RunState, str]:
    try:
        return RunState(event.values["state"]), str(event.values.get("reason") or "")
    except (KeyError, ValueError):
        return RunState.FAILED, f"the journal says {event.values.get('state')!r}"
