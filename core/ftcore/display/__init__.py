"""What a person sees of a run: a live view in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from ftcore.values import Step

PLAIN_SECONDS = 5.0


class Display(Protocol):
    """Told what happens, in order."""

    def stage(self, number: int, total: int, title: str) -> None:
        """A stage of the run begins."""

    def step(self, step: Step) -> None:
        """An optimizer step has ended."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def close(self) -> None:
        """Training is over, or the run is."""


class Steady:
    """Another display, for as long as it works: a terminal that goes away must not end a run."""

    def __init__(self, display: Display) -> None:
        self._display = display

    @property
    def is_silent(self) -> bool:
        """Whether nobody sees anything."""
        return isinstance(self._display, Silent)

    def stage(self, number: int, total: int, title: str) -> None:
        """See `Display`."""
        self._try(lambda: self._display.stage(number, total, title))

    def step(self, step: Step) -> None:
        """See `Display`."""
        self._try(lambda: self._display.step(step))

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
            self._display = Silent()


class Silent:
    """Shows nothing; for the Python API and `--quiet`."""

    def stage(self, number: int, total: int, title: str) -> None:
        """Nothing."""

    def step(self, step: Step) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Plain:
    """Lines for a log file: a stage each, and a step at the start, the end and every few seconds."""

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
            self._write(f"step {step.number}/{step.total}  {figures(step)}  {left} left")

    def say(self, text: str) -> None:
        """A line."""
        self._write(text)

    def close(self) -> None:
        """Nothing is open."""


class Live:
    """A progress bar that stays on the last line of a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        columns = (
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", style="cyan"),
            TextColumn("{task.fields[left]} left", style="dim"),
        )
        self._progress = Progress(*columns, console=self._console, transient=False)
        self._task: Any = None
        self._clock = Clock()

    def stage(self, number: int, total: int, title: str) -> None:
        """A line."""
        self._console.print(f"[dim]\\[{number}/{total}][/] {title}", highlight=False)

    def step(self, step: Step) -> None:
        """The bar moves."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=step.total, figures="", left="")
        left = self._clock.left(step)
        self._progress.update(self._task, completed=step.number, figures=figures(step), left=left)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """The bar stays as it is."""
        self._progress.stop()


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
        seconds = (now - start) / (step.number - number) * (step.total - step.number)
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(step: Step) -> str:
    """The figures of a step that a person watches."""
    metrics = step.metrics
    shown = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    shown += [f"lr {metrics['learning_rate']:.2e}"] if "learning_rate" in metrics else []
    shown += [f"{metrics['tokens_per_second']:,.0f} tok/s"] if "tokens_per_second" in metrics else []
    return "  ".join(shown)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`; a closed standard stream is None."""
    return stream is not None and not stream.closed and stream.isatty()


def choose_display(*, quiet: bool) -> Display:
    """A live view for a terminal, plain lines otherwise, nothing when quiet."""
    if quiet:
        return Silent()
    return Live() if is_terminal(sys.stderr) else Plain()
