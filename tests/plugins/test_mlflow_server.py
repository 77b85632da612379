"""A real MLflow server on loopback, stopped and started again while it is sent to: every point is there, once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftcore.api import RunError, RunState
from mlflow_kit import NOON, Server, Watched, event, files, losses, points, started

pytest.importorskip("mlflow", minversion="3.5", exc_type=ImportError)


@pytest.fixture
def watched(mlflow_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return Watched(tmp_path / "grids-1", mlflow_server.uri)


def test_all_that_is_sent_is_there(watched: Watched) -> None:
    (watched.folder / "adapter").mkdir(parents=True)
    (watched.folder / "adapter/adapter_model.safetensors").write_bytes(b"w" * 500)
    (watched.folder / "samples").mkdir()
    (watched.folder / "samples/one.png").write_bytes(b"a picture")
    tracker = watched.track(log_model="adapter", registered_model="grids", tags={"team": "grids"})
    tracker.tell(started())
    tracker.send(points(1, 1500, learning_rate=0.1))
    row = {"origin": "r:1", "prompt": "p", "expected": "e", "answer": "a", "images": ["samples/one.png"]}
    tracker.tell(event("answers", 1500, when="after", loss=1.0, scores={"exact": 1.0}, rows=[row]))
    tracker.close(RunState.FINISHED, "")
    seen = watched.seen()
    assert (seen.info.status, seen.data.tags["team"]) == ("FINISHED", "grids")
    client, run_id = tracker.client, seen.info.run_id
    assert losses(client, run_id) == [(n, 1 / n) for n in range(1, 1501)]
    assert {"answers/step-001500-after.json", "samples/one.png", "settings.json"} <= set(files(client, run_id))
    assert client.get_logged_model(watched.remembered["model_id"]).status == "READY"
    assert len(client.search_model_versions("name = 'grids'")) == 1
    assert not any(watched.folder.parent.glob("mlflow*")), "nothing is kept here"


def test_a_server_that_goes_and_comes_back_has_every_point_once(mlflow_server: Server, watched: Watched) -> None:
    server = mlflow_server
    tracker = watched.track()
    tracker.send(points(1, 5))
    server.stop()
    begun = time.monotonic()
    for attempt in (lambda: tracker.send(points(6, 9)), lambda: tracker.tell(event("notice", 9, sign="s", text="t"))):
        with pytest.raises(RunError, match=f"^plugin.mlflow: {server.uri} cannot be reached: Connection refused$"):
            attempt()
    with pytest.raises(RunError, match="Connection refused"):
        watched.track()
    assert time.monotonic() - begun < 60, "it is tried again by others"
    server.start()
    tracker.send(points(6, 9))
    again = watched.track()
    again.tell(started(7))
    again.send(points(8, 12, time=NOON + 100))
    again.close(RunState.STOPPED, "SIGTERM")
    assert losses(tracker.client, watched.remembered["run_id"]) == [(n, 1 / n) for n in range(1, 13)]
    assert watched.seen().info.status == "KILLED"
