"""A real MLflow server in a process of its own, and MLflow's plugin driven as a tracker's process drives it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported, which tests do before a tracker

from ftcore.api import Event, EventKind, Point, Profile, Run
from ftcore_plugins.mlflow import MLflow, Options

NOON = 1_700_000_000.0
START_SECONDS = 90

SCRIPT = """
import os, sys
from mlflow import server

folder, port = sys.argv[1:]
os.environ[server.BACKEND_STORE_URI_ENV_VAR] = os.environ[server.REGISTRY_STORE_URI_ENV_VAR] = f"sqlite:///{folder}/s.db"
os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = f"{folder}/artifacts"
os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"

import uvicorn

uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=int(port), log_level="warning")
"""
"""What `mlflow server` starts, without the process around it that imports everything once more."""


class Server:
    """`stop` and `start` it as often as a test likes; it keeps its port and its data. `store` is an empty database."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder
        shutil.copyfile(store, folder / "s.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        if self._process is not None:
            return
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(self._folder), str(self._port)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 1}',
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30):
                return True
        except OSError:
            return False


@attrs.frozen
class Watched:
    """A run in a folder, as MLflow's plugin sees it, and what MLflow then has."""

    folder: Path
    uri: str = ""

    @property
    def run(self) -> Run:
        return Run(name="grids", folder=self.folder, profile=Profile())

    def track(self, settings: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A tracker, as each new process makes one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = Options(**{"tracking_uri": self.uri, **options})
        return MLflow(config).track(self.run, settings or {"train": {"learning_rate": 0.001, "betas": [0.9, 0.99]}})

    def seen(self) -> Any:
        """The run as MLflow has it."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri or f"sqlite:///{self.folder.parent}/mlflow.db")
        return client.get_run(self.remembered["run_id"])

    @property
    def remembered(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "trackers/mlflow-run.json").read_text())
        return found


def empty_store(folder: Path) -> Path:
    """A database with MLflow's tables and nothing else: making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        Watched(folder / "run").track(experiment="nobody's")
    return folder / "mlflow.db"


def points(first: int, last: int, *, time: float = NOON, scale: float = 1.0, **more: float) -> list[Point]:
    return [Point(step=n, time=time + n, metrics={"loss": scale / n, **more}) for n in range(first, last + 1)]


def event(kind: str, step: int = 0, /, **values: Any) -> Event:
    return Event(kind=EventKind(kind), step=step, time=NOON + step, values=values)


def started(from_step: int = 0) -> Event:
    return event("started", from_step, from_step=from_step, total_steps=100, metrics_bytes=0)


def losses(client: Any, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    """Step and value of each point, by step."""
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, name))


def files(client: Any, run_id: str, folder: str | None = None) -> list[str]:
    """The paths of all artifacts."""
    found: list[str] = []
    for each in client.list_artifacts(run_id, folder):
        found += files(client, run_id, each.path) if each.is_dir else [each.path]
    return sorted(found)


def read_json(client: Any, run_id: str, name: str, folder: Path) -> Any:
    return json.loads(Path(client.download_artifacts(run_id, name, str(folder))).read_text("utf-8"))
