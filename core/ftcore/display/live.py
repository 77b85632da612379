"""A view at the bottom of a terminal that is drawn again as the run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live as Region

from ftcore.display.drawing import Glyphs, status_lines
from ftcore.display.progress import Progress
from ftcore.values import Event, Point, Step

BETWEEN = 0.25
"""Seconds from one drawing to the next, at least: what a step pays for is mostly to remember it."""


class Terminal(Console):
    """Standard error, whose cursor stays visible: a run may be killed, and cannot bring it back then."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - rich's signature
        """Nothing."""
        return False


class Live:
    """Lines above, and below them how far training is. No thread draws: processes are forked beside it."""

    mode = "live"

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Terminal(stderr=True, force_terminal=True)
        self._glyphs = Glyphs.of(self._console.encoding)
        self._clock = clock
        self._progress = Progress()
        self._region: Region | None = None
        self._drawn = 0.0

    def stage(self, number: int, total: int, title: str) -> None:
        """A line."""
        self._console.print(f"[dim]\\[{number}/{total}][/] {title}", highlight=False)

    def step(self, step: Step) -> None:
        """The view is drawn again, unless it just was."""
        point = Point(step=step.number, time=time.time(), metrics={**step.metrics, "epoch": step.epoch})
        self._progress = self._progress.of_total(step.total).after_point(point)
        if self._region is None:
            self._begin()
        if self._clock() - self._drawn >= BETWEEN:
            self._draw()

    def point(self, point: Point) -> None:
        """Seen at the next drawing."""
        self._progress = self._progress.after_point(point)

    def event(self, event: Event) -> None:
        """Seen at the next drawing."""
        self._progress = self._progress.after_event(event)

    def say(self, text: str) -> None:
        """A line above the view."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """The view stays as it is, and the terminal is in order."""
        if self._region is not None:
            region, self._region = self._region, None
            region.stop()

    def _begin(self) -> None:
        self._region = Region(
            get_renderable=self._picture,
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # else it is somebody's data
            vertical_overflow="crop",
        )
        self._region.start()

    def _draw(self) -> None:
        if self._region is not None:
            self._region.refresh()
            self._drawn = self._clock()

    def _picture(self) -> Group:
        width = max(1, self._console.width - 1)  # some terminals break a line that is full
        return Group(*status_lines(self._progress, width, self._glyphs))
