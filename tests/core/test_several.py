"""Several processes of one run, without torch: who writes, who follows, and how they stop and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ftcore import engine
from ftcore.checkpoints import verify
from ftcore.errors import Interrupted, RunError
from ftcore.manifest import read_manifest
from ftcore.runs import run_info
from journals import figures


@pytest.fixture
def team(desk, monkeypatch):
    """The light profile for two processes, and an environment in which workers find the light plugins."""
    for name, value in desk.installation.env.items():
        monkeypatch.setenv(name, value)
    desk.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    desk.replace('profile = "cpu"\n', 'profile = "cpu"\nprocesses = 2\n')
    desk.append("\n[plugin.light_ranks]\n")
    return desk


def test_two_processes_write_one_run_and_the_same_as_one_process(team):
    alone = engine.run(team.load(sets=["hardware.processes=1"]))
    several = engine.run(team.load())
    assert several.state == "finished"
    assert figures(several.folder) == figures(alone.folder)
    assert (several.loss_before, several.loss_after) == (alone.loss_before, alone.loss_after)
    assert several.samples == alone.samples
    last = several.folder / "checkpoints" / "step-000010"
    assert verify(last) == ""
    assert (last / "rank-1.json").is_file(), "every process writes into the one checkpoint"
    assert len(read_manifest(several.folder).exports) == 1


def test_only_the_main_process_tells_the_observers(team):
    engine.run(team.load())
    assert [event["step"] for event in team.events("on_step")] == list(range(1, 11))
    assert len(team.events("run_started")) == len(team.events("run_ended")) == 1


def test_only_the_main_process_starts_trackers(team):
    team.append('\n[plugin.light_tracker]\npath = "tracked.jsonl"\n')
    engine.run(team.load())
    lines = [json.loads(line) for line in (team.folder / "tracked.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines if line["what"] in ("track", "close")] == ["track", "close"]
    assert lines[-1]["state"] == "finished"


def test_rows_that_cannot_be_kept_are_formatted_by_each_process_apart(team):
    folder = engine.run(team.load()).folder
    assert list(folder.glob(".prepared*")) == []


def test_broken_processes_fail_the_run_and_it_goes_on_from_the_agreed_checkpoint(team, monkeypatch):
    whole = engine.run(team.load()).folder
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    with pytest.raises(RunError, match="light fault in step:8"):
        engine.run(team.load())
    monkeypatch.delenv("LIGHT_FAULT")
    folder = max(team.runs(), key=lambda path: path.stat().st_mtime_ns)
    assert engine.resume(folder).state == "finished"
    assert figures(folder) == figures(whole)


def test_a_signal_to_one_process_stops_all_of_them_with_one_checkpoint(team, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:5=SIGTERM")
    monkeypatch.setenv("LIGHT_FAULT_RANK", "1")
    with pytest.raises(Interrupted) as caught:
        engine.run(team.load())
    assert caught.value.exit_code == 75
    assert caught.value.reason == "another process was told to stop"
    (folder,) = team.runs()
    assert run_info(folder).state == "stopped"
    assert (folder / "checkpoints" / "step-000005").is_dir()
    assert not (folder / "exports").exists()
    monkeypatch.delenv("LIGHT_FAULT")
    assert engine.resume(folder).step == 10


def test_the_end_of_another_process_is_not_told_in_the_words_of_sockets(desk, monkeypatch):
    def lost(self, state):
        raise ConnectionError("[pair.cc:553] Connection closed by peer [127.0.0.1]:47853. GLHF!")

    monkeypatch.setattr("light_plugins.Arithmetic._step", lost)
    with pytest.raises(RunError, match=r"^another process has gone, .*; run.log says where$"):
        engine.run(desk.load())
    (folder,) = desk.runs()
    assert read_manifest(folder).reason == "another process has gone, which has said why itself if it could"
    assert "GLHF" in (folder / "run.log").read_text("utf-8")


def test_a_launcher_that_raises_leaves_no_run_that_seems_to_be_running(team):
    body = "class Plugin:\n    @hookimpl\n    def launch(self):\n        raise RunError('no such machine')\n"
    team.installation.plugin("nowhere", body)
    with pytest.raises(RunError, match="no such machine"):
        engine.run(team.load(switch_on=["nowhere"], switch_off=["light_ranks"]))
    (folder,) = team.runs()
    manifest = read_manifest(folder)
    assert (manifest.state, manifest.reason) == ("failed", "no such machine")
    assert manifest.ended


def start(team, tmp_path, *arguments, size=2):
    """`ftcore` as somebody else's launcher starts it: every process the same command."""
    common = {
        **os.environ,
        **team.installation.env,
        "WORLD_SIZE": str(size),
        "LIGHT_MEETING": str(tmp_path / "meeting"),
    }
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    command = [sys.executable, "-m", "ftcore.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [subprocess.Popen(command, cwd=team.folder, env=environment, **pipes) for environment in ranks]


def ended(processes):
    said = [process.communicate(timeout=60) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in said], [err for _, err in said]


def test_processes_that_somebody_else_has_started_work_on_one_run(team, tmp_path):
    codes, out, err = ended(start(team, tmp_path, "run", team.profile))
    assert codes == [0, 0], err
    (folder,) = team.runs()
    assert run_info(folder).state == "finished"
    assert "finished after 10 steps" in out[0]
    assert (out[1], err[1]) == ("", ""), "one process speaks"
    assert "run folder: " in err[0]


def test_a_mistake_in_the_profile_is_told_once_and_left_for_whoever_started_them(team, tmp_path, monkeypatch):
    left = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(left))
    codes, out, err = ended(start(team, tmp_path, "run", team.profile, "--set", "train.batch_sizes=3"))
    said = "train.batch_sizes: unknown key; did you mean 'batch_size'?"
    assert (codes, out, err) == ([2, 2], ["", ""], [f"{said}\n", ""])
    assert json.loads(left.read_text())["message"]["message"] == said


def test_workers_that_were_stopped_before_they_could_say_so_have_a_reason(team):
    team.installation.plugin("stopped", "class Plugin:\n    @hookimpl\n    def launch(self):\n        return 130\n")
    with pytest.raises(Interrupted, match=r"^SIGINT received$"):
        engine.run(team.load(switch_on=["stopped"], switch_off=["light_ranks"]))
    assert read_manifest(team.runs()[0]).reason == "SIGINT received"


def test_what_only_one_of_them_finds_it_tells_and_the_run_ends_for_that_reason(team, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:5=RunError")
    monkeypatch.setenv("LIGHT_FAULT_RANK", "1")
    codes, _, err = ended(start(team, tmp_path, "run", team.profile, "--quiet"))
    assert (codes, err) == ([1, 1], ["", "rank 1: light fault in step:5\n"])
    (folder,) = team.runs()
    manifest = read_manifest(folder)
    assert (manifest.state, manifest.reason) == ("failed", "light fault in step:5")
    (told,) = team.events("run_ended")
    assert (told["state"], told["reason"]) == ("failed", "light fault in step:5")
    assert "light fault in step:5" in (folder / "ranks" / "rank-1.log").read_text("utf-8")


def test_they_go_on_with_a_run_together(team, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    codes, _, err = ended(start(team, tmp_path, "run", team.profile, "--quiet"))
    assert codes == [1, 1]
    assert err == ["light fault in step:8\n", ""], "what all of them find, the main one tells"
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = team.runs()
    again = tmp_path / "again"
    again.mkdir()
    codes, _, err = ended(
        start(team, again, "run", "--resume", folder, "--set", "train.log_steps=2", "--allow-changes")
    )
    assert codes == [0, 0], err
    assert "going on from the checkpoint of step 6" in err[0]
    assert run_info(folder).state == "finished"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_all_of_them_commits_once(team, tmp_path, monkeypatch, number, code):
    monkeypatch.setenv("LIGHT_PAUSE", "0.05")
    processes = start(team, tmp_path, "run", team.profile, "--set", "train.max_steps=100")
    deadline = time.monotonic() + 30
    # Once a step has ended, both of them are in the steps: a signal before that leaves nothing to commit.
    while not any((path / "metrics.jsonl").exists() and figures(path) for path in team.runs()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in processes:
        process.send_signal(number)
    codes, _, err = ended(processes)
    assert codes == [code, code], err
    (folder,) = team.runs()
    assert run_info(folder).state == "stopped"
    assert len(list((folder / "checkpoints").iterdir())) <= 2
