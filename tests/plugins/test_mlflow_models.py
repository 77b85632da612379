"""What was trained as a logged model of MLflow: its files, once, and as a version in its registry."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import RunState
from mlflow_kit import Watched, points

pytest.importorskip("mlflow", minversion="3.5", exc_type=ImportError)


@pytest.fixture
def saved(watched: Watched) -> Path:
    """The folder of a run that has saved its adapter."""
    adapter = watched.folder / "adapter"
    (adapter / "inner").mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"w" * 500)
    (adapter / "inner/more.json").write_text("[]")
    return watched.folder


def merged(folder: Path) -> None:
    model = folder / "exports/merged"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    export = {"kind": "merged", "path": str(model), "proof": {"verdict": "proved"}}
    (folder / "report.json").write_text(json.dumps({"exports": [{"kind": "gguf", "path": "x"}, export]}))


def model_of(tracker: Any, watched: Watched) -> Any:
    return tracker.client.get_logged_model(watched.remembered["model_id"])


def model_files(tracker: Any, watched: Watched, tmp_path: Path) -> dict[str, bytes]:
    from mlflow.artifacts import download_artifacts

    uri = f"models:/{watched.remembered['model_id']}"
    place = Path(download_artifacts(uri, dst_path=str(tmp_path / "back"), tracking_uri=tracker.place.uri))
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found.pop("registered_model_meta", None)  # of the download
    return found


def test_the_adapter_is_a_logged_model_and_a_version_of_a_name(
    watched: Watched, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = watched.track(log_model="adapter", registered_model="grids")
    tracker.send(points(1, 3))
    with caplog.at_level("INFO"):
        for _ in range(2):
            tracker.close(RunState.FINISHED, "")
    assert caplog.text.count("sending the adapter model: 3 files of 0.0 MB") == 1
    model = model_of(tracker, watched)
    assert (model.status, model.name, model.model_type) == ("READY", "grids-1-adapter", "adapter")
    assert model.source_run_id == watched.remembered["run_id"]
    found = model_files(tracker, watched, tmp_path)
    assert found["model/adapter_model.safetensors"] == b"w" * 500
    assert found["model/inner/more.json"] == b"[]"
    assert b"peft" in found["MLmodel"]
    (output,) = watched.seen().outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 3)
    (version,) = tracker.client.search_model_versions("name = 'grids'")
    assert version.source == f"models:/{model.model_id}"


def test_the_merged_export_is_found_in_the_report(watched: Watched, saved: Path, tmp_path: Path) -> None:
    merged(saved)
    tracker = watched.track(log_model="merged")
    tracker.close(RunState.FINISHED, "")
    found = model_files(tracker, watched, tmp_path)
    assert set(found) == {"MLmodel", "model/config.json"}
    assert b"huggingface" in found["MLmodel"]


def test_what_was_trained_may_be_the_whole_model(watched: Watched, saved: Path, tmp_path: Path) -> None:
    (saved / "adapter").rename(saved / "model")
    tracker = watched.track(log_model="adapter")
    tracker.close(RunState.FINISHED, "")
    assert "model/adapter_config.json" in model_files(tracker, watched, tmp_path)


def test_without_the_export_it_is_said_how_to_get_one(
    watched: Watched, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = watched.track(log_model="merged")
    tracker.close(RunState.FINISHED, "")
    assert "there is no merged model to log; turn on [plugin.merge]" in caplog.text
    assert watched.seen().info.status == "FINISHED"


@pytest.mark.parametrize(("state", "asked"), [(RunState.STOPPED, "adapter"), (RunState.FINISHED, "none")])
def test_a_model_is_logged_only_if_asked_and_finished(
    watched: Watched, saved: Path, state: RunState, asked: str
) -> None:
    tracker = watched.track(log_model=asked)
    tracker.close(state, "")
    assert watched.remembered["model_id"] == ""


def test_files_that_have_arrived_are_not_sent_again(
    watched: Watched, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from ftcore.api import RunError

    sent: list[str] = []
    real = MlflowClient.log_model_artifact

    def once(client: Any, model: str, path: str, folder: str | None = None) -> None:
        if len(sent) == 2 and "lost" not in sent:
            sent.append("lost")
            raise ConnectionError("broken pipe")
        sent.append(Path(path).name)
        real(client, model, path, folder)

    monkeypatch.setattr(MlflowClient, "log_model_artifact", once)
    with pytest.raises(RunError, match="broken pipe"):
        watched.track(log_model="adapter").close(RunState.FINISHED, "")
    assert watched.seen().info.status == "FINISHED", "a model that is late changes nothing about the end"
    tracker = watched.track(log_model="adapter")
    assert model_of(tracker, watched).status == "PENDING"
    tracker.close(RunState.FINISHED, "")
    assert sent == ["adapter_config.json", "adapter_model.safetensors", "lost", "more.json", "MLmodel"]
    assert model_of(tracker, watched).status == "READY"
    assert len(model_files(tracker, watched, tmp_path)) == 4


def test_a_run_that_has_trained_on_logs_another_model(watched: Watched, saved: Path) -> None:
    watched.track(log_model="adapter").close(RunState.FINISHED, "")
    before = watched.remembered["model_id"]
    weights = saved / "adapter/adapter_model.safetensors"
    weights.write_bytes(b"v" * 500)
    os.utime(weights, (1, 1))
    watched.track(log_model="adapter").close(RunState.FINISHED, "")
    assert watched.remembered["model_id"] != before
