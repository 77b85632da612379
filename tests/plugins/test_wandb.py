"""Weights & Biases: its files are read back by its own program, and what a server could not take comes later."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.api import EventKind
from tracking_kit import ROW, event, png, point, write_journal
from wandb_kit import CANARY, Server, Shelf, listening

pytest.importorskip("wandb")

WORKER = Path(__file__).with_name("wandb_worker.py")
COUNTED = {"target/left": 2.0, "target/right": 1.0, "predicted/right": 3.0}


@attrs.frozen
class Desk:
    """A home of its own, in which the client runs."""

    home: Path
    server: Server

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
        address = {"WANDB_BASE_URL": self.server.address, "WANDB_API_KEY": CANARY}
        # The key is in the environment even when it is not needed: it must be in no file.
        return {**kept, **address, "HOME": str(self.home), "NETRC": str(self.home / ".netrc"), **more}

    def work(
        self, folder: Path, more: Mapping[str, str] | None = None, place: Path | None = None, **orders: Any
    ) -> str:
        command = [sys.executable, str(WORKER), str(folder), json.dumps(orders)]
        environment = self.environment(**(more or {}))
        done = subprocess.run(
            command,
            env=environment,
            cwd=place or self.home,  # where it must leave nothing
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout.strip().replace("\n", "; ")

    def sync(self, folder: Path) -> Shelf:
        """Have the client's own program read the files and send what is in them."""
        files = [str(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
        command = [str(Path(sys.executable).with_name("wandb")), "sync", *files]
        home = self.home / "sync"
        home.mkdir()
        environment = self.environment(HOME=str(home))
        done = subprocess.run(
            command, env=environment, cwd=home, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.stderr.count("Finished syncing") == len(files), done.stderr
        [run] = (self.server.runs[name] for name in self.server.runs if name in files[0])
        return run


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with listening() as server:
        yield Desk(tmp_path_factory.mktemp("home"), server)


def steps(shelf: Shelf, name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in shelf.rows if name in row]


def holding_secrets(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    secrets = (CANARY.encode(), b"canary-of-a-login", base64.b64encode(f"api:{CANARY}".encode()))
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]


@pytest.fixture(scope="module")
def folder(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tracker was killed twice, behind the cursor and before it, and then failed."""
    folder = tmp_path_factory.mktemp("runs") / "grids"
    png(folder / "samples/a.png")
    rows = [{**ROW, "images": ["samples/a.png"]}, {**ROW, "origin": "rows.jsonl:2"}]
    answered = event(EventKind.ANSWERS, when="before", loss=4.0, scores={"exact": 0.25, **COUNTED}, rows=rows)
    events = [answered, event(EventKind.MODEL, base="org/model", parameters={"total": 1000, "trainable": 10})]
    points = [point(step) for step in range(1, 6)]
    write_journal(folder, points, events)
    told = [desk.work(folder, options={"mode": "offline"}, end="kill")]
    points += [point(5, eval_loss=1.5), *(point(step) for step in range(6, 9))]
    events.append(event(EventKind.ANSWERS, 5, when="during", loss=1.5, scores=COUNTED, rows=rows[1:]))
    events.append(event(EventKind.NOTICE, 7, sign="loss-rising", text="it rises", advice="lower the rate", page=""))
    write_journal(folder, points, events)
    told.append(desk.work(folder, options={"mode": "offline"}, sent=3, end="kill"))
    proof = {"verdict": "proved", "figures": {"mean_kl": 1e-5}, "note": ""}
    path = str(folder / "exports/q8_0.gguf")
    (folder / "exports").mkdir()
    Path(path).write_bytes(b"weights")
    events.append(event(EventKind.ARTIFACT, 10, kind="gguf", path=path, details={}, proof=proof))
    write_journal(folder, [*points, point(9), point(10)], events)
    # The cursor is ahead of what was sent, as after a power cut.
    told.append(
        desk.work(
            folder, options={"mode": "auto", "artifacts": True}, more={"WANDB_MODE": "offline"}, sent=10, end="failed"
        )
    )
    assert told == ["sent", "sent", "sent; closed"]
    return folder


@pytest.fixture(scope="module")
def shelf(desk: Desk, folder: Path) -> Shelf:
    return desk.sync(folder)


def test_its_own_reader_finds_every_point_once_after_kills(shelf: Shelf) -> None:
    assert steps(shelf, "train/loss") == [(step, pytest.approx(9.0 / step)) for step in range(1, 11)]
    assert steps(shelf, "eval/loss") == [(5, 1.5)]
    assert [row["_timestamp"] for row in shelf.rows if "train/loss" in row] == [1e9 + step for step in range(1, 11)]
    assert [row["_step"] for row in shelf.rows] == list(range(13))


def test_actions_are_histograms_with_a_bin_for_each(shelf: Shelf) -> None:
    bins = {"_type": "histogram", "bins": [0, 1, 2]}
    assert steps(shelf, "actions/target_before") == [(0, {**bins, "values": [2, 1]})]
    assert steps(shelf, "actions/predicted") == [(5, {**bins, "values": [0, 3]})]
    assert json.loads(shelf.fields["config"])["actions"]["value"] == ["left", "right"]


def test_the_configuration_is_profile_and_model_without_logins(shelf: Shelf) -> None:
    config = {name: value["value"] for name, value in json.loads(shelf.fields["config"]).items()}
    assert config["train.learning_rate"] == 0.5
    assert config["data.id"] == "https://host/x"
    assert (config["model/parameters"], config["model/trainable"], config["model/trainable_share"]) == (1000, 10, 0.01)


def test_the_summary_has_the_proofs_and_the_end(shelf: Shelf) -> None:
    assert shelf.summary["artifacts/gguf/q8_0.gguf/verdict"] == "proved"
    assert shelf.summary["artifacts/gguf/q8_0.gguf/mean_kl"] == 1e-5
    assert (shelf.summary["state"], shelf.summary["reason"], shelf.ended) == ("failed", "a reason", 1)
    assert shelf.summary["eval/loss_before"] == 4.0


def test_answers_are_a_table_with_images(folder: Path, shelf: Shelf) -> None:
    [(step, table)] = steps(shelf, "samples/before")
    written = json.loads(shelf.files[table["path"]])
    assert (step, written["columns"]) == (0, ["step", "origin", "prompt", "expected", "answer", "image"])
    assert written["data"][1] == [0, "rows.jsonl:2", "go <b>|left", "left", "`right`\nnow", None]
    [(_, grid)] = steps(shelf, "images/before")
    assert grid["captions"] == ["rows.jsonl:1: expected left, answered `right`\nnow"]
    assert [shelf.files[name] for name in grid["filenames"]] == [(folder / "samples/a.png").read_bytes()]


def test_an_export_is_an_artifact_on_request(desk: Desk, folder: Path, shelf: Shelf) -> None:
    made = [values["input"] for values in desk.server.told["CreateArtifact"]]
    [model] = [values for values in made if values["artifactTypeName"] == "model"]
    assert model["artifactCollectionName"].endswith("-gguf-q8_0.gguf")
    assert json.loads(model["metadata"])["artifacts/gguf/q8_0.gguf/verdict"] == "proved"


def test_a_notice_is_an_alert(desk: Desk, shelf: Shelf) -> None:
    [alert] = desk.server.told["NotifyScriptableRunAlert"]
    assert (alert["title"], alert["severity"]) == ("loss-rising", "WARN")
    assert "it rises; lower the rate" in alert["text"]


def test_all_files_are_below_the_run_and_hold_no_secret(desk: Desk, folder: Path, shelf: Shelf) -> None:
    assert not holding_secrets(folder)
    assert [path.name for path in desk.home.iterdir()] == ["sync"]


@pytest.mark.slow
def test_online_an_offline_run_with_all_options_and_what_comes_later_are_one(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_journal(folder, [point(1)])
    assert desk.work(folder, options={"mode": "offline"}, end="failed") == "sent; closed"
    noticed = [event(EventKind.NOTICE, 1, sign="once", text="it rises", advice="", page="")]
    write_journal(folder, [point(1), point(2)], noticed)
    named = {
        "project": "grids",
        "entity": "lab",
        "name": "my name",
        "group": "sweep",
        "tags": ["a", "b"],
        "notes": "*n*",
    }
    online = {**named, "git": True, "mode": "online"}
    assert desk.work(folder, options=online, place=WORKER.parent, sent=1, end="stopped") == "sent; closed"
    [run] = [run for run in desk.server.runs.values() if run.fields.get("displayName") == "my name"]
    [first] = [told for told in desk.server.told["UpsertBucket"] if told.get("entity") == "lab"][:1]
    assert (first["project"], first["groupName"]) == ("grids", "sweep")
    assert (run.fields["tags"], run.fields["notes"], run.ended) == (["a", "b"], "*n*", 0)
    assert run.fields["commit"]
    known = set(desk.server.runs)
    write_journal(folder, [point(1), point(2, loss=7.0), point(3)], noticed)
    assert desk.work(folder, options=named, end="finished") == "sent; closed"  # as `ftcore sync --again` does
    assert set(desk.server.runs) == known
    assert steps(run, "train/loss") == [(1, 9.0), (2, 4.5), (3, 3.0)]  # nothing that is there is taken back
    assert [alert["title"] for alert in desk.server.told["NotifyScriptableRunAlert"]].count("once") == 1
    for each in (folder / "wandb").glob("*run-*"):
        shutil.rmtree(each)
    assert desk.work(folder, options=named, end="finished") == "sent; closed"
    assert [step for step, _ in steps(run, "train/loss")] == [1, 2, 3], "the server knows how far it is"
    assert not holding_secrets(folder)


@pytest.mark.slow
def test_a_server_that_goes_away_gets_the_rest_later(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_journal(folder, [point(step) for step in range(1, 51)])
    orders = {"options": {"end_timeout": 2.0, "start_timeout": 2.0}, "wait": True, "end": "finished"}
    command = [sys.executable, str(WORKER), str(folder), json.dumps(orders)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=desk.environment(), **pipes) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "sent\n"
        desk.server.status = 503
        try:
            said, _ = worker.communicate("\n", timeout=60)
            assert "not all was sent within 2 seconds" in said
            late = desk.work(folder, options=orders["options"], sent=50, end="finished")
            assert f"the run cannot be opened at {desk.server.address}: " in late
        finally:
            desk.server.status = 200
    assert desk.work(folder, options=orders["options"], sent=50, end="finished") == "sent; closed"
    [run] = [run for run in desk.server.runs.values() if run.fields.get("displayName") == "run" and len(run.rows) == 50]
    assert steps(run, "train/loss") == [(step, pytest.approx(9.0 / step)) for step in range(1, 51)]
    assert run.ended == 0
    assert not holding_secrets(folder)


@pytest.mark.parametrize("status", [200, 401], ids=["without-a-key", "with-a-key-that-is-refused"])
def test_it_never_asks_for_a_login(desk: Desk, tmp_path: Path, status: int) -> None:
    write_journal(tmp_path, [point(1)])
    environment = desk.environment()
    if status == 200:
        del environment["WANDB_API_KEY"]
    ours, theirs = pty.openpty()  # a terminal, where it could ask
    desk.server.status = status
    command = [
        sys.executable,
        str(WORKER),
        str(tmp_path),
        json.dumps({"options": {"start_timeout": 2.0}, "end": "failed"}),
    ]
    try:
        done = subprocess.run(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=False
        )
    finally:
        desk.server.status = 200
        os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 1
    assert ("set WANDB_API_KEY" if status == 200 else "cannot be opened at") in shown
    assert status == 200 or "401" in shown
    assert "(after" in shown  # our sentence, and nothing that waits
    assert CANARY not in shown
