"""Shared by all tests: where the repository is, and `ftcore` in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlflow_kit import Server

REPOSITORY = Path(__file__).resolve().parents[1]

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def ftcore_process() -> Callable[..., Finished]:
    """`ftcore ARGUMENTS` in a process of its own; `env` is laid over this one's environment."""

    def call(
        *arguments: object, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Finished:
        command = [sys.executable, "-m", "ftcore.cli", *map(str, arguments)]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return call


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow: making one takes seconds."""
    from mlflow_kit import empty_store

    return empty_store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Iterator[Server]:
    """One for all tests; who stops it, starts it again."""
    from mlflow_kit import Server

    made = Server(tmp_path_factory.mktemp("server"), mlflow_store)
    made.start()
    yield made
    made.stop()
