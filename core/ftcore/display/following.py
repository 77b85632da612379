"""`ftcore monitor`: follow a run on a screen, or in lines, until it has ended or nobody looks any more."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live as Region
from rich.text import Text

from ftcore.display.choosing import is_terminal
from ftcore.display.dashboard import dashboard
from ftcore.display.drawing import Glyphs
from ftcore.display.plain import PLAIN_SECONDS, spelled, step_line
from ftcore.display.watching import Watched
from ftcore.signals import raising
from ftcore.values import Event, EventKind, Notice

LOOK_SECONDS = 1.0
PAGE = (100, 40)
"""Cells and rows of a picture that goes into a file, unless COLUMNS and LINES say otherwise."""

LEAVING = ("q", "Q")


def print_once(watched: Watched) -> None:
    """One picture on standard output."""
    width, height = shutil.get_terminal_size(PAGE)
    console = Console(highlight=False, width=width)
    console.print(_picture(watched, width - 1, height, Glyphs.of(console.encoding)))


def follow_on_screen(watched: Watched) -> None:
    """Draw on a screen of its own until the run has ended, or a key leaves; the last picture stays."""
    console = Console(highlight=False)
    # SIGTERM ends the block as an exception does, so that the terminal is given back.
    with (
        raising(signal.SIGTERM),
        _keys() as pressed,
        Region(console=console, screen=True, auto_refresh=False) as region,
    ):
        while True:
            glyphs = Glyphs.of(console.encoding)
            region.update(_picture(watched, console.width - 1, console.height, glyphs, hint=True), refresh=True)
            if not watched.is_running or pressed(LOOK_SECONDS) in LEAVING:
                break
            watched.look()
    print_once(watched)


def follow_in_lines(
    watched: Watched, write: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> None:
    """A picture of where the run is, then a line for what happens, and for a step every few seconds."""
    print_once(watched)
    shown = time.monotonic()
    while watched.is_running:
        pause(LOOK_SECONDS)
        for one in watched.look():
            if isinstance(one, Event):
                _write_each(write, event_lines(one))
            elif "eval_loss" in one.metrics:
                write(f"step {one.step}: held-out loss {one.metrics['eval_loss']:.4f}")
        if watched.progress.time and time.monotonic() - shown >= PLAIN_SECONDS:
            shown = time.monotonic()
            write(newest_line(watched))
    write(f"{watched.state}{f': {watched.reason}' if watched.reason else ''}")


def newest_line(watched: Watched) -> str:
    """The newest step on one line."""
    progress = watched.progress
    return step_line(progress.step, progress.total, progress.metrics, spelled(progress.seconds_left(time.time())))


def event_lines(event: Event) -> Iterator[str]:
    """What of an event is worth a line."""
    values = event.values
    if event.kind is EventKind.STAGE:
        yield f"[{values.get('number')}/{values.get('total')}] {values.get('title')}"
    elif event.kind is EventKind.CHECKPOINT:
        yield f"step {event.step}: checkpoint {values.get('path')}"
    elif event.kind is EventKind.NOTICE:
        text, advice = str(values.get("text")), str(values.get("advice") or "")
        yield Notice(sign=str(values.get("sign")), text=text, advice=advice).told(event.step)
    elif event.kind is EventKind.ARTIFACT:
        proof = values.get("proof")
        yield f"{values.get('kind')}: {proof.get('verdict') if isinstance(proof, dict) else proof}"


def _write_each(write: Callable[[str], None], lines: Iterator[str]) -> None:
    for line in lines:
        write(line)


def _picture(watched: Watched, width: int, height: int, glyphs: Glyphs, *, hint: bool = False) -> Group:
    lines: list[Text] = dashboard(watched, max(1, width), height, glyphs, hint=hint)
    return Group(*lines)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What tells the key that is pressed within some seconds, if any. Without a keyboard, it only waits."""
    if not is_terminal(sys.stdin):
        yield _no_key
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(descriptor: int, seconds: float) -> str:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    return os.read(descriptor, 1).decode("latin-1") if ready else ""


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
