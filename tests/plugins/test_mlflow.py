"""What MLflow has of a run afterwards, with its SQLite store: each figure once, whatever was sent twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import Point, RunError, RunState
from mlflow_kit import NOON, Watched, event, files, losses, points, read_json, started

pytest.importorskip("mlflow", minversion="3.5", exc_type=ImportError)

ROW = {"origin": "rows.jsonl:7", "prompt": "which way?", "expected": "up", "answer": "down"}


def test_figures_have_their_own_steps_and_times_and_mlflows_names(watched: Watched) -> None:
    tracker = watched.track()
    tracker.send(
        [
            Point(step=3, time=NOON + 0.25, metrics={"loss": 2.0, "system/cpu": 40.0, "system/host_memory": 2.0}),
            Point(step=3, time=NOON + 0.5, metrics={"eval_loss": 1.5, "eval_pass@1": 0.5, "eval_target/up": 4.0}),
            Point(step=4, time=NOON + 1, metrics={"loss": float("nan"), "system/gpu1/temperature": 60.0}),
        ]
    )
    (loss, last) = tracker.client.get_metric_history(watched.seen().info.run_id, "train/loss")
    assert (loss.step, loss.timestamp, loss.value) == (3, NOON * 1000 + 250, 2.0)
    assert last.value != last.value
    figures = dict(watched.seen().data.metrics)
    figures.pop("train/loss")
    assert figures == {
        "system/cpu_utilization_percentage": 40.0,
        "system/system_memory_usage_megabytes": pytest.approx(2147.48, abs=0.01),
        "system/gpu_1_temperature_celsius": 60.0,
        "eval/loss": 1.5,
        "eval/pass_1": 0.5,
        "counts/target/up": 4.0,
    }


def test_the_user_reads_how_to_look_at_it(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ftcore.plugins.mlflow"):
        watched.track()
    [line] = [record.getMessage() for record in caplog.records if record.name == "ftcore.plugins.mlflow"]
    assert line.startswith("mlflow server --backend-store-uri sqlite:///")
    assert line.endswith(" shows the run")


def test_settings_and_the_machine_are_parameters(watched: Watched, tmp_path: Path) -> None:
    watched.folder.mkdir()
    (watched.folder / "manifest.json").write_text(
        '{"created": "2026-01-02T03:04:05+00:00", "environment": {"cpus": 2}, "versions": {"torch": "2.13.0"}}'
    )
    data = {"id": "https://me:hunter22@host/x", "columns": {"a@b": "x" * 7000}}
    settings = {"train": {"betas": [0.9], "eval": None}, "data": data, "k" * 300: True}
    tracker = watched.track(settings)
    params = watched.seen().data.params
    assert params["train.betas"] == "[0.9]"
    assert params["environment.cpus"], params["versions.torch"] == ("2", "2.13.0")
    assert params["data.columns.a_b"] == "x" * 5997 + "..."
    assert params["k" * 250] == "True"
    assert watched.seen().info.start_time == 1767323045000
    data["id"] = params["data.id"]
    assert data["id"] == "https://host/x"
    assert read_json(tracker.client, watched.seen().info.run_id, "settings.json", tmp_path) == settings


def test_points_that_come_twice_are_there_once(watched: Watched) -> None:
    tracker = watched.track()
    many = points(1, 700, learning_rate=0.1)
    tracker.send(many)
    tracker.send(many)
    watched.track().send(many)
    for name in ("train/loss", "train/learning_rate"):
        assert [step for step, _ in losses(tracker.client, watched.seen().info.run_id, name)] == list(range(1, 701))


def test_a_run_that_goes_on_is_the_same_one_and_shows_no_step_twice(watched: Watched) -> None:
    tracker = watched.track()
    tracker.tell(event("model", base="a"))
    tracker.send([*points(1, 9), Point(step=9, time=NOON, metrics={"eval_exact": 0.5})])
    tracker.close(RunState.FAILED, "the run was killed")
    assert watched.seen().info.status == "FAILED"
    assert watched.seen().data.tags["ftcore.reason"] == "the run was killed"
    again = watched.track({"train": {"learning_rate": 0.002, "new": 1}})
    again.tell(started(6))
    assert watched.seen().info.status == "RUNNING"
    again.tell(event("model", base="b"))
    again.send([*points(7, 12, time=NOON + 1000), Point(step=9, time=NOON + 1000, metrics={"eval_exact": 0.5})])
    again.close(RunState.FINISHED, "")
    assert losses(tracker.client, watched.seen().info.run_id) == [(n, 1 / n) for n in range(1, 13)]
    assert losses(tracker.client, watched.seen().info.run_id, "eval/exact") == [(9, 0.5)]
    assert watched.seen().info.status == "FINISHED"
    tags = watched.seen().data.tags
    assert (tags["ftcore.reason"], tags["ftcore.resumed_from"]) == ("", "6")
    assert tags["ftcore.changed"] == "train.learning_rate: 0.001 -> 0.002; model/base: a -> b"
    assert watched.seen().data.params["train.new"] == "1"
    watched.track()
    assert watched.seen().data.tags["ftcore.changed"] == "", "it is as it was"


def test_losses_that_differ_after_going_on_are_shown_beside_the_old_ones(watched: Watched) -> None:
    tracker = watched.track()
    tracker.send(points(1, 4))
    tracker.tell(started(2))
    tracker.send(points(3, 5, time=NOON + 1000, scale=2.0))
    steps = [step for step, _ in losses(tracker.client, watched.seen().info.run_id)]
    assert steps == [1, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize(
    ("state", "shown"),
    [(RunState.FINISHED, "FINISHED"), (RunState.STOPPED, "KILLED"), (RunState.FAILED, "FAILED")],
)
def test_the_end_state_is_that_of_the_run_and_its_time_too(
    watched: Watched, state: RunState, shown: str, tmp_path: Path
) -> None:
    tracker = watched.track()
    journal = watched.folder / "events.jsonl"
    journal.write_text("{}\n")
    os.utime(journal, (NOON, NOON))
    for name in ("report.json", "report.html", "manifest.json"):
        (watched.folder / name).write_text('{"id": "https://me:hunter22@host/x"}')
    tracker.close(state, "so")
    assert (watched.seen().info.status, watched.seen().info.end_time) == (shown, NOON * 1000)
    assert files(tracker.client, watched.seen().info.run_id) == [
        "manifest.json",
        "report.html",
        "report.json",
        "settings.json",
    ]
    report = read_json(tracker.client, watched.seen().info.run_id, "report.json", tmp_path)
    assert report == {"id": "https://host/x"}


def test_answers_are_tables_with_their_images(watched: Watched, tmp_path: Path) -> None:
    tracker = watched.track()
    (watched.folder / "samples").mkdir()
    (watched.folder / "samples/one.png").write_bytes(b"a picture")
    rows = [{**ROW, "images": ["samples/one.png", "../../outside.png"]}, {**ROW, "images": []}]
    scores = {"exact": 0.5, "target/up": 2, "predicted/up": 1, "predicted/<b>": 1}
    answered = event("answers", 20, when="after", loss=1.25, scores=scores, rows=rows)
    for _ in range(2):
        tracker.tell(answered)
    client, run_id = tracker.client, watched.seen().info.run_id
    table = read_json(client, run_id, "answers/step-000020-after.json", tmp_path)
    assert table["columns"] == ["origin", "image 1", "prompt", "expected", "answer"]
    picture = {"type": "image", "filepath": "samples/one.png", "compressed_filepath": "samples/one.png"}
    assert table["data"][0] == ["rows.jsonl:7", picture, "which way?", "up", "down"]
    assert table["data"][1][1] is None
    assert "samples/one.png" in files(client, run_id)
    counted = read_json(client, run_id, "counts/step-000020-after.json", tmp_path)
    assert counted == {"columns": ["class", "target", "predicted"], "data": [["up", 2, 1], ["<b>", 0, 1]]}
    drawn = Path(client.download_artifacts(run_id, "counts/step-000020-after.svg", str(tmp_path))).read_text()
    assert drawn.startswith("<svg")
    assert "&lt;b&gt;: predicted 1" in drawn
    assert losses(client, run_id, "eval/loss_after") == [(20, 1.25)]
    assert losses(client, run_id, "eval/exact_after") == [(20, 0.5)]
    assert watched.seen().data.tags["mlflow.loggedArtifacts"].count("answers/") == 1


def test_the_tag_that_names_tables_stays_short(watched: Watched) -> None:
    tracker = watched.track()
    for step in range(70):
        tracker.tell(event("answers", step, when="during", scores={}, rows=[ROW]))
    named = watched.seen().data.tags["mlflow.loggedArtifacts"]
    assert named.count('"table"') == 50
    assert "step-000069" in named


def test_what_happens_becomes_tags_parameters_and_files(watched: Watched, tmp_path: Path) -> None:
    tracker = watched.track()
    ledger = {"rows": 9, "trained": 7, "held_out": 1, "dropped": {"too long": 1}, "repeated": 0}
    tracker.tell(event("data", ledger=ledger, proved=3))
    tracker.tell(event("stage", number=1, total=7, title="training"))
    tracker.tell(event("model", base="b", revision=None, parameters={"total": 200, "trainable": 20}))
    tracker.tell(event("checkpoint", 5, path="checkpoints/step-000005"))
    notice = {"sign": "loss-rising", "text": "the loss rises", "advice": "lower it", "page": "docs/health.md"}
    tracker.tell(event("notice", 5, **notice))
    path = str(watched.folder / "exports/gguf/x.gguf")
    proof = {"verdict": "proved", "figures": {"kl": 1e-5}, "note": ""}
    exported = {"kind": "gguf", "path": path, "details": {"quantization": "q8_0"}, "proof": proof}
    tracker.tell(event("artifact", 9, **exported))
    tags, params = watched.seen().data.tags, watched.seen().data.params
    assert (tags["data.rows"], tags["data.dropped.too long"], tags["proof.labels_on"]) == ("9", "1", "3")
    assert (params["model/base"], params["model/parameters"], params["model/trainable_share"]) == ("b", "200", "0.1")
    assert tags["ftcore.checkpoint"] == "checkpoints/step-000005"
    assert tags["notice/loss-rising"] == "step 5: the loss rises; lower it; docs/health.md"
    assert tags["artifacts/gguf/x.gguf/verdict"] == "proved"
    assert tags["artifacts/gguf/x.gguf/kl"] == "1e-05"
    assert read_json(tracker.client, watched.seen().info.run_id, "exports/gguf-x.gguf.json", tmp_path) == exported


def test_a_score_with_hundreds_of_classes_is_sent_in_several_requests(watched: Watched) -> None:
    tracker = watched.track()
    tracker.send(points(1, 2, **{f"n{i}": float(i) for i in range(1100)}))
    assert len(watched.seen().data.metrics) == 1101


def test_the_run_is_called_and_tagged_as_the_profile_says(watched: Watched) -> None:
    tracker = watched.track(experiment="mine", run_name="first", tags={"team": "grids", "a@b": "c"})
    assert watched.seen().info.run_name == "first"
    assert watched.seen().data.tags["team"] == "grids"
    assert watched.seen().data.tags["a_b"] == "c"
    assert tracker.client.get_experiment(watched.seen().info.experiment_id).name == "mine"


def test_without_names_the_run_and_its_folder_give_them(watched: Watched) -> None:
    tracker = watched.track()
    experiment = tracker.client.get_experiment(watched.seen().info.experiment_id)
    assert (experiment.name, watched.seen().info.run_name) == ("grids", "grids-1")
    beside = watched.folder.parent / "mlflow-artifacts" / "grids"
    assert experiment.artifact_location == beside.as_uri()
    assert list(beside.rglob("settings.json"))


def test_the_environment_names_the_experiment_where_the_profile_does_not(watched: Watched) -> None:
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "of the shell"
    tracker = watched.track()
    assert tracker.client.get_experiment(watched.seen().info.experiment_id).name == "of the shell"


def test_an_answer_that_got_lost_makes_no_second_run(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    made = MlflowClient.create_run

    def lost(client: Any, *given: Any, **named: Any) -> Any:
        made(client, *given, **named)
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(MlflowClient, "create_run", lost)
    with pytest.raises(RunError, match="cannot be reached: reset by peer"):
        watched.track()
    monkeypatch.setattr(MlflowClient, "create_run", made)
    tracker = watched.track()
    assert len(tracker.client.search_runs([watched.remembered["experiment_id"]])) == 1


def test_a_run_that_was_deleted_there_is_made_anew(watched: Watched) -> None:
    tracker = watched.track()
    before = watched.remembered["run_id"]
    tracker.client.delete_run(before)
    watched.track().send(points(1, 2))
    assert watched.remembered["run_id"] != before


def test_a_damaged_memory_of_the_run_is_none(watched: Watched) -> None:
    watched.track()
    before = watched.remembered["run_id"]
    for text in ("", "[]", '{"address": 3}', "\x00"):
        (watched.folder / "trackers/mlflow-run.json").write_text(text)
        watched.track()
        assert watched.remembered["run_id"] != before


def test_a_deleted_experiment_is_said_with_its_cure(watched: Watched) -> None:
    tracker = watched.track()
    tracker.client.delete_experiment(watched.remembered["experiment_id"])
    shutil.rmtree(watched.folder)
    with pytest.raises(RunError, match=r"the experiment grids was deleted at sqlite.*; restore it"):
        watched.track()


def test_figures_go_on_where_files_cannot_be_kept(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    (watched.folder.parent / "mlflow-artifacts").write_text("in the way")
    tracker = watched.track()
    tracker.tell(event("answers", 1, when="during", scores={}, rows=[ROW]))
    tracker.send(points(1, 3))
    tracker.close(RunState.FINISHED, "")
    assert len(losses(tracker.client, watched.seen().info.run_id)) == 3
    assert watched.seen().info.status == "FINISHED"
    assert caplog.text.count("no files are taken") == 1


def test_what_the_user_has_set_for_the_client_stays(watched: Watched) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "7"
    watched.track()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


ALONE = """
import os, sys
from pathlib import Path
import psutil
from mlflow_kit import Watched, points

del os.environ["MLFLOW_DISABLE_TELEMETRY"]  # of the tests
tracker = Watched(Path(sys.argv[1])).track()
tracker.send(points(1, 3))
from mlflow.telemetry.client import get_telemetry_client

print([get_telemetry_client(), [each for each in psutil.Process().net_connections() if each.status == "LISTEN"]])
"""


def test_its_process_tells_nobody_and_listens_to_nobody(watched: Watched) -> None:
    marks = ("DO_NOT_TRACK", "PYTEST_CURRENT_TEST", "CI")  # by which MLflow would be silent anyway
    env = {name: value for name, value in os.environ.items() if name not in marks}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, watched.folder], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("[None, []]\n", 0), done.stderr
