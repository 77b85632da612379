"""A tracker: one line of a CSV file for each step, and one for each run."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import attrs

from ftcore.api import Outcome, Problem, Run, Step, hookimpl, option

STEP = "step"
RUN_COLUMNS = ("run", "state", "step", "loss_before", "loss_after")


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
        self._file: TextIO | None = None

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
    def run_started(self, run: Run) -> None:
        """Begin the file with its header; a run that goes on keeps what is there."""
        path = run.folder / self.config.file
        if not path.exists():
            _write_lines(path, "w", [(STEP, *self.config.columns)])

    @hookimpl
    def on_step(self, run: Run, step: Step) -> None:
        """Append a line. A run that was killed repeats the steps after its last checkpoint: they are cut first."""
        if self._file is None:
            path = run.folder / self.config.file
            _cut(path, step.number)
            self._file = path.open("a", encoding="utf-8", newline="")
        values = [step.metrics.get(name, "") for name in self.config.columns]
        csv.writer(self._file).writerow([step.number, *values])
        self._file.flush()

    @hookimpl
    def run_ended(self, run: Run, outcome: Outcome) -> None:
        """Close the file, and note the run in the index."""
        if self._file is not None:
            self._file.close()
        if self.config.index:
            path = run.folder.parent / self.config.index
            line = (run.folder.name, outcome.state, outcome.step, outcome.loss_before, outcome.loss_after)
            _write_lines(path, "a", [line] if path.exists() else [RUN_COLUMNS, line])


def _cut(path: Path, step: int) -> None:
    """Drop the lines of `step` and later."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    kept = [line for line in lines if line and line[0].isdigit() and int(line[0]) < step]
    _write_lines(path, "w", [header, *kept])


def _write_lines(path: Path, mode: str, lines: Iterable[Iterable[Any]]) -> None:
    with path.open(mode, encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
