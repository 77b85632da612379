"""Whole runs beside the client of Weights & Biases and TensorBoard: killed, gone on with, and without a server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ftcore import engine
from ftcore.tracking.sync import sync
from journals import written
from waiting import until
from wandb_kit import CANARY, Shelf, listening

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

STEPS = 30
PLUGINS = {"wandb": "ftcore_plugins.wandb:WandB", "tensorboard": "ftcore_plugins.tensorboard:TensorBoard"}


@pytest.fixture(scope="module")
def server():
    with listening() as server:
        yield server


@pytest.fixture
def tracked(desk, server, monkeypatch):
    """A slow run that is sent to the server, and to event files."""
    desk.installation.seen_by_children(monkeypatch)
    monkeypatch.setenv("LIGHT_PAUSE", "0.1")
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    desk.installation.distribution("the-trackers", plugins=PLUGINS)
    desk.replace("max_steps = 10", f"max_steps = {STEPS}")
    desk.append('\n[plugin.wandb]\nmode = "online"\nstart_timeout = 5.0\n\n[plugin.tensorboard]\n')
    return desk


def drawn(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(point.step, pytest.approx(point.value)) for point in found.Scalars(name)]


def shelf_of(server, folder):
    """What has come of the run; empty before anything has."""
    known = folder / "wandb/run_id"
    return server.runs.get(known.read_text() if known.exists() else "", Shelf())


def arrived(server, folder, name):
    return [(row["step"], row[name]) for row in shelf_of(server, folder).rows if name in row]


@pytest.mark.slow
def test_a_run_that_was_killed_and_went_on_has_every_point_once(tracked, server, display):
    command = [sys.executable, "-m", "ftcore.cli", "run", tracked.profile]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = until(tracked.runs)[0]
    until(lambda: len(written(folder)) > 10)
    process.kill()
    process.wait()
    until(lambda: shelf_of(server, folder).ended == 1)  # the tracker outlives the run, and says that it has failed
    engine.resume(folder, display=display)
    sync(folder, say=display.say, seconds=60)
    for name, theirs in (("loss", "train/loss"), ("eval_loss", "eval/loss")):
        assert arrived(server, folder, theirs) == written(folder, name)
        assert drawn(folder, theirs) == written(folder, name)
    assert len(written(folder)) == STEPS
    assert shelf_of(server, folder).ended == 0
    assert shelf_of(server, folder).summary["artifacts/light/light.json/verdict"] == "proved"


@pytest.mark.slow
def test_without_a_server_the_run_ends_well_and_sync_sends_it_later(tracked, server, display):
    server.status = 503
    try:
        folder = engine.run(tracked.load(), display=display).folder
        assert drawn(folder, "train/loss") == written(folder)
        assert any("ftcore sync" in line for line in display.lines)
    finally:
        server.status = 200
    sync(folder, say=display.say, seconds=60)
    assert arrived(server, folder, "train/loss") == written(folder)
    assert shelf_of(server, folder).ended == 0
