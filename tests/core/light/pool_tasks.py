"""Tasks for other processes, which import them from here."""

from __future__ import annotations

import os
import signal
import sys

from ftcore.errors import RowError


def add(start: int, stop: int) -> int:
    return start + stop


def about(start: int, stop: int) -> tuple[int, str | None, list[str]]:
    heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
    return os.getpid(), os.environ.get("TOKENIZERS_PARALLELISM"), heavy


def refuse_six(start: int, stop: int) -> int:
    if start == 6:
        raise RowError("is odd", origin="x:6", raw="six")
    return start


class StubbornError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("no way")


def stubborn(start: int, stop: int) -> int:
    raise StubbornError(1, 2)


def die(start: int, stop: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return start


def chatter(start: int, stop: int) -> tuple[int, int]:
    print("chatter")  # noqa: T201
    return start, stop
