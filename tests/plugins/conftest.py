"""Fixtures of the built-in plugins' tests; what they are made of is in `tiny_kit`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # bits depend on it; on a busy machine, two wait for each other for minutes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from mlflow_kit import Watched
from push_kit import PushHub, listening
from push_shelf import Shelf, fill_shelf, use_hub
from tiny_kit import Tiny, make_rows, make_run, prepare


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    run = make_run(tmp_path_factory.mktemp("tiny"))
    rows = make_rows()
    from ftcore_plugins.tiny_model import Options, TinyModel

    plugin = TinyModel(Options())
    tokenizer = plugin.load_processor(run, rows)
    loaded = plugin.load_model(run, tokenizer, None)
    return Tiny(base=Path(loaded.base), rows=rows, tokenizer=tokenizer, data=prepare(tokenizer, rows))


@pytest.fixture(scope="module")
def push_server() -> Iterator[PushHub]:
    with listening() as hub:
        yield hub


@pytest.fixture
def hub(push_server: PushHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PushHub:
    use_hub(push_server, monkeypatch, tmp_path)
    return push_server


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return fill_shelf(tmp_path)


@pytest.fixture
def watched(tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A run whose tracker writes to MLflow's SQLite file beside it. What it sets in the environment is undone."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    shutil.copyfile(mlflow_store, tmp_path / "mlflow.db")
    return Watched(tmp_path / "grids-1")
