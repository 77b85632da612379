"""`metrics.jsonl`: one JSON object a line, the truth about what a run measured."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ftcore.files import finite, replace_bytes
from ftcore.journal.lines import is_step, last_lines, number_of, parsed, whole_lines
from ftcore.values import Point

Line = dict[str, Any]


class MetricsLog:
    """Appends to `metrics.jsonl`; every line is handed to the system at once, so that a kill loses none."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> float:
        """Append one line; its time. Not-a-number and infinity, which JSON lacks, are written as null."""
        when = round(time.time(), 3)
        line = {"step": step, "time": when, **finite(metrics)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return when

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[Line]:
    """Every whole line; a torn last line of a killed run is passed over."""
    for line, _ in whole_lines(path):
        if is_step(line.get("step")):
            yield line


def read_points(path: Path) -> Iterator[Point]:
    """The same as values."""
    return (point for point in map(point_of, read_metrics(path)) if point is not None)


def point_of(line: Line) -> Point | None:
    """The point of a line; None for a line without a step. What was null is not a number."""
    if not is_step(line.get("step")):
        return None
    numbers = {name: number_of(value) for name, value in line.items() if name != "step"}
    when = numbers.pop("time", None)
    metrics = {name: value for name, value in numbers.items() if value is not None}
    return Point(step=line["step"], time=when if when is not None and math.isfinite(when) else 0.0, metrics=metrics)


def last_figure(path: Path, name: str) -> float:
    """The value of the last line that has one of that name; 0 without such a line."""
    values = (point.metrics.get(name, math.nan) for point in _last_points(path))
    return next((value for value in values if math.isfinite(value)), 0.0)


def last_time(path: Path) -> float | None:
    """When the last line was written; None without one that says so."""
    return next((point.time for point in _last_points(path) if point.time), None)


def _last_points(path: Path) -> Iterator[Point]:
    return (point for point in map(point_of, last_lines(path)) if point is not None)


def figure_by_step(path: Path, name: str) -> dict[int, float]:
    """One figure at each step that has it as a number, the last one written of a step.

    Other lines are not even parsed: a long run has millions, and few are of evaluations.
    """
    if not path.exists():
        return {}
    quoted, found = json.dumps(name).encode(), dict[int, float]()
    with path.open("rb") as file:
        for raw in file:
            line = parsed(raw) if quoted in raw and raw.endswith(b"\n") else None
            point = point_of(line) if line is not None else None
            if point is not None and math.isfinite(point.metrics.get(name, math.nan)):
                found[point.step] = point.metrics[name]
    return found


def cut_metrics(path: Path, step: int) -> int:
    """Drop what was logged after `step`, since a resumed run writes it again, and what nobody can read.

    Returns up to which byte the file is as it was: trackers know a line by its place.
    """
    raws = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a torn last line is none
    kept = [raw for raw in raws if _is_until(raw, step)]
    replace_bytes(path, b"".join(raw + b"\n" for raw in kept))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(raws, kept, strict=False))
    return sum(len(raw) + 1 for raw, _ in same)


def _is_until(raw: bytes, step: int) -> bool:
    found = (parsed(raw) or {}).get("step")
    return is_step(found) and found <= step
