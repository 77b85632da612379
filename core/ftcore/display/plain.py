"""Lines for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from ftcore.values import Event, Point, Step

PLAIN_SECONDS = 5.0


class Plain:
    """Lines for a log file: a stage each, and a step at the start, the end and every few seconds."""

    mode = "plain"

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
        self._clock = Clock()
        self._shown = 0.0

    def stage(self, number: int, total: int, title: str) -> None:
        """A line."""
        self._write(f"[{number}/{total}] {title}")

    def step(self, step: Step) -> None:
        """A line, if the last one is some seconds old."""
        left = self._clock.left(step)
        now = time.monotonic()
        if step.number in (1, step.total) or now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            self._write(step_line(step.number, step.total, step.metrics, left))

    def point(self, point: Point) -> None:
        """Nothing; what is worth a line is said."""

    def event(self, event: Event) -> None:
        """Nothing; what is worth a line is said."""

    def say(self, text: str) -> None:
        """A line."""
        self._write(text)

    def close(self) -> None:
        """Nothing is open."""


class Clock:
    """Time left, from the steps seen so far; a resumed run counts its own steps only."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def left(self, step: Step) -> str:
        """Such as `1:05`; `?` at the first step."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step.number, now)
        number, start = self._first
        if step.number == number:
            return "?"
        return spelled((now - start) / (step.number - number) * (step.total - step.number))


def step_line(number: int, total: int, metrics: Mapping[str, float], left: str) -> str:
    """A step on one line."""
    return f"step {number}/{total}  {figures(metrics)}  {left} left"


def spelled(seconds: float | None) -> str:
    """A duration, such as `1:05` or `2:45:00`; `?` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(metrics: Mapping[str, float]) -> str:
    """The figures of a step that a person watches."""
    shown = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    shown += [f"lr {metrics['learning_rate']:.2e}"] if "learning_rate" in metrics else []
    shown += [f"{metrics['tokens_per_second']:,.0f} tok/s"] if "tokens_per_second" in metrics else []
    return "  ".join(shown)
