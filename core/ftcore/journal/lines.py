"""Files of one JSON object a line, which another process may be writing, or may have been killed while it did."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

LAST_STEP = 2**53
"""No run comes so far, and every view can count so far."""

BLOCK = 2**16
"""Bytes that are read at once from the end of a file."""


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Every object from byte `start` on, with the byte behind its line. Lines of another kind are passed over.

    A last line without its line break is not there yet; without the file, there are no lines.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        place = start
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            place += len(raw)
            line = parsed(raw)
            if line is not None:
                yield line, place


def last_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The same objects, the last one first. Of a long file only the end is read, as far as it is asked for."""
    rest, ends = b"", False  # `ends`: whether `rest` is the beginning of a whole line, or may be torn
    for block in _last_blocks(path):
        head, *raws = (block + rest).split(b"\n")
        if raws and not ends:
            raws.pop()
            ends = True
        rest = head
        yield from (line for line in map(parsed, reversed(raws)) if line is not None)
    line = parsed(rest) if ends else None
    if line is not None:
        yield line


def _last_blocks(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            yield file.read(end - start)
            end = start


def parsed(raw: bytes) -> dict[str, Any] | None:
    """The object of one line; None for a line of another kind."""
    try:
        line = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def is_torn(path: Path) -> bool:
    """Whether the last line has no line break: a kill or a full disk came in between."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def is_step(value: Any) -> TypeGuard[int]:
    """Whether it is the number of a step."""
    return type(value) is int and 0 <= value <= LAST_STEP


def number_of(value: Any) -> float | None:
    """A figure as a float, not-a-number for null; None for what is no figure."""
    if type(value) is float:  # as nearly all of millions are
        return value
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer may be of any length
        return None
