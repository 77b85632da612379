"""What every display answers to, the one that shows nothing, and the one that a lost terminal cannot hurt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ftcore.values import Event, Point, Step


class Display(Protocol):
    """Told what happens, in order."""

    def stage(self, number: int, total: int, title: str) -> None:
        """A stage of the run begins."""

    def step(self, step: Step) -> None:
        """An optimizer step has ended."""

    def point(self, point: Point) -> None:
        """A line of `metrics.jsonl` was written."""

    def event(self, event: Event) -> None:
        """A line of `events.jsonl` was written."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def close(self) -> None:
        """Training is over, or the run is."""


class Silent:
    """Shows nothing; for the Python API and `--quiet`."""

    mode = "quiet"

    def stage(self, number: int, total: int, title: str) -> None:
        """Nothing."""

    def step(self, step: Step) -> None:
        """Nothing."""

    def point(self, point: Point) -> None:
        """Nothing."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Steady:
    """Another display, for as long as it works: a terminal that goes away must not end a run."""

    def __init__(self, display: Display) -> None:
        self._display = display

    @property
    def mode(self) -> str:
        """What `--progress` calls it, for the workers of the run; `quiet` shows nothing."""
        return str(getattr(self._display, "mode", "auto"))

    def stage(self, number: int, total: int, title: str) -> None:
        """See `Display`."""
        self._try(lambda: self._display.stage(number, total, title))

    def step(self, step: Step) -> None:
        """See `Display`."""
        self._try(lambda: self._display.step(step))

    def point(self, point: Point) -> None:
        """See `Display`."""
        self._try(lambda: self._display.point(point))

    def event(self, event: Event) -> None:
        """See `Display`."""
        self._try(lambda: self._display.event(event))

    def say(self, text: str) -> None:
        """See `Display`."""
        self._try(lambda: self._display.say(text))

    def close(self) -> None:
        """See `Display`."""
        self._try(self._display.close)

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError):  # a broken pipe, a full disk behind it, a closed file
            self._lose()
        except Exception:  # a mistake of the view's own, which is not worth a run either
            logging.getLogger("ftcore").warning("the display has failed, and shows nothing more", exc_info=True)
            self._lose()

    def _lose(self) -> None:
        lost, self._display = self._display, Silent()
        with suppress(Exception):  # it fails already; a live view gives standard output back
            lost.close()
