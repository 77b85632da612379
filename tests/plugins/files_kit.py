"""Shared by the tests of `files`: its rows and problems for one path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcore.api import DataTable, Problem, Profile, Row, Run
from ftcore_plugins.files import Files

GOOD = b'{"a": 1}\n'


def run_of(path: Path | None, folder: Path = Path("nowhere"), **data: Any) -> Run:
    return Run(name="x", folder=folder, profile=Profile(data=DataTable(path=path, **data)))


def load(path: Path | None, folder: Path = Path("nowhere"), **data: Any) -> list[Row]:
    return list(Files().load_rows(run_of(path, folder, **data)))


def check(path: Path | None, **data: Any) -> list[Problem]:
    return list(Files().check(run_of(path, **data)))
