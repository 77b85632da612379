"""Rows from JSONL files: one JSON object a line, UTF-8."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ftcore.api import Problem, Row, Run, RunError, hookimpl
from ftcore_plugins.common.jsonl import JsonlError, Line, data_files, parsed, rows_of

KEY = "data.path"
BAD_ROWS = "bad_rows.jsonl"

CHECKED_LINES = 2000
CHECKED_BYTES = 4 * 2**20
SHOWN_PROBLEMS = 10


class Files:
    """Row source: `data.path` is a JSONL file, or a folder of them that are read in the order of their names.

    Blank lines are skipped. Row.origin is the file's name and the line: `functions.jsonl:41`.
    """

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The files are there, and the first lines hold rows. Reads a few megabytes at most."""
        data = run.profile.data
        if data.path is None:
            return [Problem(message="no training data; name a .jsonl file or a folder of them", key=KEY)]
        try:
            faults = _faults_at_the_start(data_files(data.path), data.max_rows)
        except JsonlError as fault:
            return [_problem(fault)]
        return [_problem(fault) for fault in faults[:SHOWN_PROBLEMS]] if len(faults) > data.max_bad_rows else []

    @hookimpl
    def load_rows(self, run: Run) -> Sequence[Row]:
        """Read the rows. Up to `data.max_bad_rows` broken ones are set aside in the run folder, with the reason.

        Raises `RunError` with file and line for one more, and for a file that holds no rows.
        """
        data = run.profile.data
        if data.path is None:
            raise RunError(f"{KEY}: no training data; name a .jsonl file or a folder of them")
        rows: list[Row] = []
        broken: list[tuple[Line, str]] = []
        try:
            for line in rows_of(data_files(data.path)):
                _read(line, rows, broken, data.max_bad_rows)
                if len(rows) == data.max_rows:
                    break
        except JsonlError as fault:
            raise RunError(str(fault) if fault.file else f"{KEY}: {fault}") from fault
        finally:
            _set_aside(broken, run.folder)
        if not rows:
            raise RunError(
                f"{data.path}: no rows are left, all {len(broken)} are broken; see {BAD_ROWS} in the run folder"
            )
        return rows


def _read(line: Line, rows: list[Row], broken: list[tuple[Line, str]], allowed: int) -> None:
    try:
        values = parsed(line)
    except JsonlError as fault:
        broken.append((line, fault.message))
        if len(broken) <= allowed:
            return
        limit = f"; this is broken row {len(broken)}, over data.max_bad_rows ({allowed})" if allowed else ""
        raise line.broken(fault.message + limit) from None
    rows.append(Row(values=values, origin=f"{line.file.name}:{line.number}"))


def _set_aside(broken: Sequence[tuple[Line, str]], folder: Path) -> None:
    if not broken or not folder.is_dir():
        return
    records = [
        {
            "file": str(line.file),
            "line": line.number,
            "reason": reason,
            "raw": line.raw.decode("utf-8", "backslashreplace"),
        }
        for line, reason in broken
    ]
    # Every rank writes the same rows: a name of its own and a rename keep them from mixing.
    staging = folder / f".{BAD_ROWS}.{os.getpid()}"
    staging.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    staging.replace(folder / BAD_ROWS)


def _faults_at_the_start(files: Sequence[Path], max_rows: int | None) -> list[JsonlError]:
    faults: list[JsonlError] = []
    rows = 0
    for line in rows_of(files, CHECKED_BYTES, CHECKED_LINES):
        try:
            parsed(line)
            rows += 1
        except JsonlError as fault:
            faults.append(fault)
        if rows == max_rows:
            break
    return faults


def _problem(error: JsonlError) -> Problem:
    return Problem(message=error.message, key=KEY, file=error.file, line=error.line)
