from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcore.api import DataTable, Profile, Row, Run
from ftcore_plugins.python_functions import Options, PythonFunctions


def run_of(**data: Any) -> Run:
    return Run(name="x", folder=Path("nowhere"), profile=Profile(data=DataTable(**data)))


def rows_of(run: Run | None = None, **options: Any) -> list[Row]:
    return list(PythonFunctions(Options(**options)).load_rows(run or run_of()))
