"""Whole runs beside a real MLflow server: killed, gone on with, and with the server away for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from ftcore import engine
from ftcore.tracking.sync import sync
from journals import written
from mlflow_kit import losses
from waiting import until

pytest.importorskip("mlflow", minversion="3.5", exc_type=ImportError)

STEPS = 40


@pytest.fixture
def server(mlflow_server):
    return mlflow_server


@pytest.fixture
def tracked(desk, server, monkeypatch):
    """A slow run that is sent to the server."""
    desk.installation.seen_by_children(monkeypatch)
    monkeypatch.setenv("LIGHT_PAUSE", "0.1")
    desk.installation.distribution("the-mlflow-plugin", plugins={"mlflow": "ftcore_plugins.mlflow:MLflow"})
    desk.replace("max_steps = 10", f"max_steps = {STEPS}")
    desk.append(f'\n[plugin.mlflow]\ntracking_uri = "{server.uri}"\n')
    return desk


def run_id_of(folder):
    """The MLflow run's, empty before it is opened."""
    memory = folder / "trackers/mlflow-run.json"
    return json.loads(memory.read_text())["run_id"] if memory.exists() else ""


def seen(server, folder):
    """The run as MLflow has it, and its losses by step."""
    from mlflow import MlflowClient

    client, run_id = MlflowClient(server.uri), run_id_of(folder)
    return client.get_run(run_id), losses(client, run_id)


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_lacks_nothing(tracked, server, display):
    def away():
        folder = until(tracked.runs)[0]
        until(lambda: run_id_of(folder) and len(written(folder)) > 3)
        server.stop()
        until(lambda: len(written(folder)) > 10)
        server.start()

    thread = threading.Thread(target=away)
    thread.start()
    folder = engine.run(tracked.load(), display=display).folder
    thread.join(120)
    assert not thread.is_alive(), "the server is up again"
    sync(folder, say=display.say, seconds=60)
    run, sent = seen(server, folder)
    assert sent == written(folder)
    assert len(sent) == STEPS
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/loss"] > 0


@pytest.mark.slow
def test_a_killed_run_has_failed_there_and_goes_on_as_the_same_one(tracked, server, display):
    process = subprocess.Popen([sys.executable, "-m", "ftcore.cli", "run", tracked.profile], stdout=subprocess.DEVNULL)
    folder = until(tracked.runs)[0]
    until(lambda: len(written(folder)) > 10)
    process.kill()
    process.wait()
    until(lambda: run_id_of(folder) and seen(server, folder)[0].info.status == "FAILED")
    before, _ = seen(server, folder)
    engine.resume(folder, display=display)
    sync(folder, say=display.say, seconds=60)
    after, sent = seen(server, folder)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert sent == written(folder)
    assert len(sent) == STEPS
