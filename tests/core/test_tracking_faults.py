"""Real processes of trackers beside real runs: whatever they do, the run goes on and keeps every point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcore import engine
from ftcore.journal.events import read_events
from ftcore.journal.metrics import read_metrics
from ftcore.tracking import dry_run
from ftcore.tracking.cursor import cursor_file, read_cursor
from ftcore.tracking.sync import sync
from waiting import until

STEPS = list(range(1, 11))


@pytest.fixture
def track(desk, monkeypatch):
    """Switch a light tracker on, under a name of its own; what it is given comes back from `given`."""
    desk.installation.seen_by_children(monkeypatch)
    monkeypatch.setenv("LIGHT_API_KEY", "k-0123456789")

    def on(*names, fault=""):
        points = {name: "light_trackers:LightTracker" for name in names if name != "light_tracker"}
        if points:
            desk.installation.distribution(f"more-{names[0]}", plugins=points)
        for name in names:
            kind = fault.format(name=name)
            desk.append(f'\n[plugin.{name}]\npath = "{name}.jsonl"\nfault = "{kind}"\n')

    return on


@pytest.fixture
def given(desk):
    def read(name="light_tracker", what=None):
        path = desk.folder / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if what in (None, line["what"])]

    return read


@pytest.fixture
def sent_steps(given):
    """The steps whose loss a tracker was given, in order."""

    def read(name="light_tracker"):
        pairs = (zip(line["steps"], line["points"], strict=True) for line in given(name, "send"))
        return [step for each in pairs for step, metrics in each if "loss" in metrics]

    return read


def measured(folder):
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def events_of(folder):
    return len(list(read_events(folder / "events.jsonl")))


def is_alive(process):
    """Whether it runs; nobody may have fetched its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_tracker_is_given_the_whole_run_in_a_process_of_its_own(desk, track, given, sent_steps, display):
    track("light_tracker")
    folder = engine.run(desk.load(), display=display).folder
    (opened,) = given(what="track")
    assert opened["process"] != os.getpid()
    assert opened["heavy"] == [], "nothing heavy is imported that the tracker does not import itself"
    assert (opened["run"], opened["sent"], opened["resumed"], opened["folder"]) == ("light", 0, False, str(folder))
    assert sent_steps() == STEPS
    told = [line["event"] for line in given(what="tell")]
    assert told == [str(event.kind) for event in read_events(folder / "events.jsonl")][:-1]
    assert {"stage", "data", "model", "started", "checkpoint", "artifact"} <= set(told)
    assert given()[-1] == {"what": "close", "state": "finished", "reason": ""}
    said = [line for line in display.lines if "light_tracker" in line]
    assert said == ["light_tracker: see light_tracker.jsonl", "light_tracker: warning: it is light"], "all is well"
    assert sync(folder, say=pytest.fail)[0].lacks == ""
    assert len(given(what="track")) == 1, "nothing was left to send"


BROKEN = ("raises", "dies", "exits", "leaves", "memory", "disk")
HANGING = ("blocks", "holds")
ODD = ("interrupts", "thread", "talks")


def left_behind(display, name, folder):
    """The one sentence that names a tracker which has not been sent everything."""
    (said,) = [line for line in display.lines if f"tracker {name}:" in line]
    return said.endswith(f"ftcore sync {folder} sends the rest")


def test_no_fault_of_a_tracker_reaches_the_run_and_sync_sends_the_rest(
    desk, track, given, sent_steps, display, monkeypatch
):
    """Six broken trackers, three odd ones and a sound one, beside one run."""
    monkeypatch.setenv("LIGHT_PAUSE", "0.1")
    track("light_tracker")
    track(*BROKEN, *ODD, fault="send={name}")
    folder = engine.run(desk.load(), display=display).folder
    assert measured(folder) == STEPS
    for name in ("light_tracker", *ODD):
        assert sent_steps(name) == STEPS, name
        assert given(name)[-1]["what"] == "close"
    for name in BROKEN:
        assert sent_steps(name) == []
        assert left_behind(display, name, folder)
        (desk.folder / f"{name}.fault").write_text("")
    text = "\n".join(display.lines)
    assert "hunter22" not in text
    assert "k-0123456789" not in text
    assert "no way to https://server with ***" in text
    results = sync(folder, say=lambda text: None)
    assert [result.lacks for result in results] == [""] * (len(BROKEN) + len(ODD) + 1)
    for name in BROKEN:
        assert sent_steps(name) == STEPS, name
        assert given(name)[-1] == {"what": "close", "state": "finished", "reason": ""}


def test_a_tracker_that_hangs_is_ended(desk, track, sent_steps, display, monkeypatch):
    """Also one that keeps the interpreter to itself, so that its own clock stands still."""
    monkeypatch.setattr("ftcore.session.FINISH_SECONDS", 2.0)
    track(*HANGING, fault="send={name}")
    start = time.monotonic()
    folder = engine.run(desk.load(), display=display).folder
    assert time.monotonic() - start < 30
    assert measured(folder) == STEPS
    for name in HANGING:
        assert left_behind(display, name, folder)
        (desk.folder / f"{name}.fault").write_text("")
    assert [result.lacks for result in sync(folder, say=lambda text: None)] == ["", ""]
    assert sent_steps("holds") == STEPS


def test_a_tracker_that_recovers_while_the_run_goes_on_lacks_nothing(
    desk, track, sent_steps, given, display, monkeypatch
):
    monkeypatch.setenv("LIGHT_PAUSE", "0.4")
    track("light_tracker", "phoenix")
    (desk.folder / "light_tracker.fault").write_text("send=raises")
    (desk.folder / "phoenix.fault").write_text("track=dies")
    said = display.say

    def say(text):
        said(text)
        name = "phoenix" if "tracker phoenix" in text else "light_tracker"
        if text.startswith("warning: tracker"):
            (desk.folder / f"{name}.fault").unlink()

    display.say = say
    engine.run(desk.load(), display=display)
    for name in ("light_tracker", "phoenix"):
        assert sent_steps(name) == STEPS
        assert given(name)[-1]["what"] == "close"
    told = [line for line in display.lines if "tracker " in line]
    assert any("light_tracker cannot send: send: ConnectionError" in line for line in told)
    assert "tracker light_tracker sends again" in told
    log = "trackers/phoenix.log"
    assert any(f"phoenix has died with exit code -9, see {log}; it is started again" in line for line in told)
    assert not any("ftcore sync" in line for line in told)


@pytest.fixture
def begin(desk):
    """Start `ftcore` on the light profile."""
    started = []

    def start(*arguments, pause="0.5", **options):
        environment = {**os.environ, "LIGHT_PAUSE": pause}
        command = [sys.executable, "-m", "ftcore.cli", "run", *map(str, arguments), "--quiet"]
        process = subprocess.Popen(
            command, cwd=desk.folder, env=environment, stderr=subprocess.PIPE, text=True, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_run_is_closed_as_failed_and_goes_on_where_it_was(desk, track, given, sent_steps, begin):
    track("light_tracker")
    process = begin(desk.profile)
    until(lambda: 4 in sent_steps())
    (folder,) = desk.runs()
    process.kill()
    process.wait()
    until(lambda: given(what="close"))
    assert given(what="close") == [{"what": "close", "state": "failed", "reason": "the run was killed"}]
    until(lambda: read_cursor(cursor_file(folder, "light_tracker")).closed == "failed")
    assert begin("--resume", folder, pause="0").wait(60) == 0
    opened = given(what="track")
    assert [line["resumed"] for line in opened] == [False, True]
    assert opened[1]["sent"] >= 4
    starts = [line["values"]["from_step"] for line in given(what="tell") if line["event"] == "started"]
    assert starts[0] == 0
    again = sent_steps()[sent_steps().index(10) - (10 - starts[1]) + 1 :]
    assert again == list(range(starts[1] + 1, 11)), "only the steps that were taken again are sent again"
    assert [line["state"] for line in given(what="close")] == ["failed", "finished"]


def test_a_resumed_run_does_not_wait_for_a_tracker_of_the_killed_one_that_hangs(desk, track, given, begin):
    track("light_tracker")
    (desk.folder / "light_tracker.fault").write_text("send=blocks")
    process = begin(desk.profile)
    until((desk.folder / "light_tracker.hit").exists)
    (opened,) = given(what="track")
    (folder,) = desk.runs()
    process.kill()
    process.wait()
    (desk.folder / "light_tracker.fault").unlink()
    assert is_alive(opened["process"])
    assert begin("--resume", folder, pause="0.1").wait(60) == 0
    assert [line["state"] for line in given(what="close")] == ["finished"]
    assert not is_alive(opened["process"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_all_processes_is_for_the_run_and_the_tracker_sends_the_rest(
    desk, track, given, sent_steps, begin, number, code
):
    track("light_tracker")
    process = begin(desk.profile, start_new_session=True)
    (opened,) = until(lambda: given(what="track"))
    until(sent_steps)
    os.kill(opened["process"], number)
    os.killpg(process.pid, number)
    assert process.wait(60) == code
    (folder,) = desk.runs()
    assert sent_steps() == measured(folder)
    assert given()[-1] == {"what": "close", "state": "stopped", "reason": f"{number.name} received"}


HOLDER = """
import os, sys, time
from pathlib import Path
from ftcore.tracking.beside import Trackers

Trackers(Path(sys.argv[1]), ["light_tracker"], print).start()
while not Path("light_tracker.jsonl").exists():
    time.sleep(0.02)
if os.fork() == 0:
    time.sleep(20)
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_forked_process_that_outlives_the_run_does_not_keep_the_tracker(finished, desk, given):
    """It holds the other end of the tracker's standard input, as the processes that load batches do."""
    killed = subprocess.run([sys.executable, "-c", HOLDER, finished], cwd=desk.folder, timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    until(lambda: given(what="close"), seconds=10)


def test_ctrl_c_ends_the_wait_for_a_tracker_that_hangs(desk, track, begin):
    track("light_tracker", fault="close=blocks")
    process = begin(desk.profile, pause="0")
    until(lambda: [path for path in desk.folder.glob("runs/light-*/events.jsonl") if '"ended"' in path.read_text()])
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0, "the run has finished"
    assert time.monotonic() - start < 10


def test_a_run_that_fails_before_training_starts_no_tracker_and_sync_sends_it(desk, track, given, ftcore, monkeypatch):
    track("light_tracker")
    monkeypatch.setenv("LIGHT_FAULT", "load_model=RunError")
    assert ftcore("run", desk.profile)[0] == 1
    (folder,) = desk.runs()
    assert given() == []
    assert not (folder / "trackers").exists()
    monkeypatch.delenv("LIGHT_FAULT")
    code, out, _ = ftcore("sync", folder)
    assert (code, out.split(" in ")[0]) == (0, f"light_tracker: sent 0 points and {events_of(folder)} events")
    assert given()[-1] == {"what": "close", "state": "failed", "reason": "light fault in load_model"}


def test_a_disk_that_cannot_take_the_trackers_folder_does_not_end_the_run(desk, track, display, monkeypatch):
    track("light_tracker")
    monkeypatch.setattr("ftcore.tracking.starting.FOLDER", "trackers")
    monkeypatch.setattr("os.open", _full(os.open))
    folder = engine.run(desk.load(), display=display).folder
    assert measured(folder) == STEPS
    assert any("light_tracker cannot be started (No space left on device)" in line for line in display.lines)


def _full(real):
    def opens(path, *arguments, **options):
        if str(path).endswith("light_tracker.log"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    return opens


@pytest.fixture
def finished(desk, track):
    """A run whose tracker was sent nothing."""
    folder = engine.run(desk.load()).folder
    track("light_tracker")
    text = (folder / "profile.toml").read_text()
    path = desk.folder / "light_tracker.jsonl"
    (folder / "profile.toml").write_text(f'{text}\n[plugin.light_tracker]\npath = "{path}"\n')
    return folder


def test_sync(finished, sent_steps, given, ftcore):
    code, out, err = ftcore("sync", finished)
    assert (code, out.split(" in ")[0]) == (0, f"light_tracker: sent 12 points and {events_of(finished)} events")
    assert "light_tracker: see light_tracker.jsonl" in err
    assert sent_steps() == STEPS
    assert ftcore("sync", finished)[:2] == (0, "light_tracker: nothing to send\n")
    assert len(given(what="track")) == 1
    code, out, _ = ftcore("sync", finished, "--again", "--json")
    (result,) = json.loads(out)["trackers"]
    assert (code, result["points"], result["events"], result["lacks"]) == (0, 12, events_of(finished), "")
    assert sent_steps() == [*STEPS, *STEPS]


def test_sync_of_a_run_that_has_moved_with_another_setting(finished, given, ftcore, desk):
    moved = finished.rename(desk.folder / "elsewhere")
    other = desk.folder / "other.jsonl"
    assert ftcore("sync", "elsewhere", "--set", f"plugin.light_tracker.path={other}")[0] == 0
    assert given() == []
    assert given("other", "track")[0]["folder"] == str(moved)


def test_sync_to_a_tracker_that_the_run_did_not_have(finished, given, ftcore, track, desk):
    track("second")
    assert ftcore("sync", finished, "--with", "second", "--to", "second")[0] == 0
    assert given() == []
    assert read_cursor(cursor_file(finished, "second")).closed == "finished"


def test_sync_that_cannot_send_says_why(finished, ftcore, desk):
    (desk.folder / "light_tracker.fault").write_text("send=raises")
    code, _, err = ftcore("sync", finished)
    assert code == 1
    assert "light_tracker: 12 points and " in err
    assert "ConnectionError: no way to https://server with ***" in err
    assert f"see trackers/light_tracker.log in {finished}" in err


def test_sync_refuses_what_it_cannot_do(finished, ftcore, desk):
    assert ftcore("sync", "nowhere")[::2] == (
        1,
        f"{desk.folder / 'nowhere'} is no run folder: it has no manifest.json\n",
    )
    code, _, err = ftcore("sync", finished, "--to", "wandb")
    assert (code, err) == (2, f"wandb is no tracker of {finished}, which has light_tracker; see --with\n")
    code, _, err = ftcore("sync", finished, "--set", "plugin.light_tracker.problem=LIGHT_API_KEY is not set")
    assert code == 2
    assert "LIGHT_API_KEY is not set" in err
    bare = engine.run(desk.load(switch_off=["light_tracker"])).folder
    code, _, err = ftcore("sync", bare)
    assert (code, err) == (1, f"{bare} has no tracker; name one that is to get it, such as --with tensorboard\n")


def test_sync_of_a_run_that_goes_on_is_refused(desk, track, begin, ftcore):
    track("light_tracker")
    begin(desk.profile)
    folder = until(lambda: [path for path in desk.runs() if (path / "metrics.jsonl").exists()])[0]
    code, _, err = ftcore("sync", folder)
    assert code == 1
    assert f"{folder} is in use by pid" in err


def test_a_read_only_folder_is_said(finished, ftcore, monkeypatch):
    monkeypatch.setattr("pathlib.Path.open", _refused(Path.open))
    code, _, err = ftcore("sync", finished)
    assert (code, "cannot be written (Permission denied)" in err) == (1, True)


def _refused(real):
    def opens(self, mode="r", *arguments, **options):
        if "a" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, mode, *arguments, **options)

    return opens


def test_dry_run_writes_one_point_and_closes(desk, track, given, ftcore):
    track("light_tracker")
    code, out, err = ftcore("check", desk.profile, "--dry-run")
    assert (code, err.splitlines()[0]) == (0, "light_tracker: see light_tracker.jsonl")
    assert out.startswith("light_tracker: opened, one point written, closed in ")
    assert given(what="track")[0]["run"] == "light-dry-run"
    assert given(what="send")[0]["steps"] == [1]
    assert given()[-1] == {"what": "close", "state": "finished", "reason": "dry run"}
    assert desk.runs() == []
    assert not Path(given(what="track")[0]["folder"]).exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("close=raises", "close: ConnectionError: no way to https://server with ***"), ("track=dies", "it has said")],
)
def test_dry_run_says_what_is_wrong(desk, track, ftcore, fault, said):
    track("light_tracker", fault=fault)
    code, out, err = ftcore("check", desk.profile, "--dry-run")
    assert (code, out) == (1, "")
    assert f"light_tracker: {said}" in err


def test_dry_run_names_no_place_that_is_gone(desk, track, monkeypatch):
    def tells(folder, names, options, seconds, say):
        say(f"{names[0]}: see {folder}/events")
        say(f"{names[0]}: see http://host")
        return []

    track("light_tracker")
    monkeypatch.setattr(dry_run, "send_all", tells)
    lines = []
    dry_run.dry_run(desk.load(), lines.append)
    assert lines == ["light_tracker: see http://host"]


def test_dry_run_as_json(desk, track, ftcore):
    track("light_tracker", fault="track=dies")
    code, out, _ = ftcore("check", desk.profile, "--dry-run", "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["problems"]) == (1, False, [])
    assert (answer["trackers"][0]["name"], answer["trackers"][0]["ok"]) == ("light_tracker", False)


def test_dry_run_without_a_tracker(desk, ftcore):
    code, out, err = ftcore("check", desk.profile, "--dry-run")
    assert (code, err) == (0, "no tracker to try; switch one on, such as --with tensorboard\n")
    assert "ready to run" in out
