"""A tracker: one line of a CSV file for each step, and one for each run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Event, EventKind, Point, Problem, Run, RunState, hookimpl, option

STEP = "step"
RUN_COLUMNS = ("run", "state", "step", "reason")


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.acme_csv]`."""

    file: str = option("steps.csv", help="name of the file in the run folder")
    columns: tuple[str, ...] = option(
        ("loss", "learning_rate", "tokens_per_second"), help="metrics to write, in this order, after the step"
    )
    index: str = option("runs.csv", help="file beside the run folders with a line for each run; none if empty")


class CsvTracker:
    """Writes the metrics of each step to a CSV file that a spreadsheet opens."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> list[Problem]:
        """The files are names, not paths out of their folders."""
        names = {"file": self.config.file, "index": self.config.index}
        return [
            Problem(key=f"plugin.acme_csv.{key}", message=f"{name} is a path; write a file name such as {key}.csv")
            for key, name in names.items()
            if name != Path(name).name
        ]

    @hookimpl
    def track(self, run: Run, sent: int) -> CsvFile:
        """Asked in a process of its own, where the run cannot be hurt."""
        return CsvFile(run.folder, self.config, sent)


class CsvFile:
    """The files of one run. `sent` is the last step that an earlier process is known to have written."""

    def __init__(self, folder: Path, config: Options, sent: int) -> None:
        self._folder = folder
        self._config = config
        self._path = folder / config.file
        self._step = sent
        self._size = 0
        if not self._path.exists():
            _write_lines(self._path, [(STEP, *config.columns)])
        self._go_on_after(sent)

    def send(self, points: Sequence[Point]) -> None:
        """Append a line for each point with one of the columns. What a call that was cut off has written goes first."""
        wanted = self._config.columns
        chosen = [point for point in points if not point.metrics.keys().isdisjoint(wanted)]
        lines = [(point.step, *(point.metrics.get(name, "") for name in wanted)) for point in chosen]
        with self._path.open("r+", encoding="utf-8", newline="") as file:
            file.truncate(self._size)
            file.seek(self._size)
            csv.writer(file).writerows(lines)
        self._size = self._path.stat().st_size
        self._step = points[-1].step

    def tell(self, event: Event) -> None:
        """A run that was killed takes the steps after its last checkpoint again."""
        if event.kind is EventKind.STARTED:
            self._go_on_after(event.values["from_step"])

    def close(self, state: RunState, reason: str) -> None:
        """Note the run in the index, in the place of what stood there of it."""
        if not self._config.index:
            return
        path, name = self._folder.parent / self._config.index, self._folder.name
        others = [line for line in _read_lines(path) if line[0] not in (name, RUN_COLUMNS[0])]
        _write_lines(path, [RUN_COLUMNS, *others, (name, state, self._step, reason)])

    def _go_on_after(self, step: int) -> None:
        """Drop the lines of later steps."""
        header, *lines = _read_lines(self._path)
        _write_lines(self._path, [header, *(line for line in lines if int(line[0]) <= step)])
        self._size = self._path.stat().st_size


def _read_lines(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [line for line in csv.reader(file) if line]


def _write_lines(path: Path, lines: Iterable[Iterable[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
