"""A checkpoint and a stop that another process asks for."""

from __future__ import annotations

import json
import os
import socket
import threading
import time

import attrs
import pytest

from ftcore import engine, requests
from ftcore.checkpoints import verify
from ftcore.errors import RunError
from ftcore.files import replace_text
from ftcore.journal.writing import Journal
from ftcore.locks import COMMAND_LOCK, LOCK, borrowed, holder_of, locked
from ftcore.manifest import read_manifest
from ftcore.requests import FILE, Requests
from ftcore.runs import run_info
from ftcore.values import EventKind, RunState
from light_processes import begin, in_the_steps


@pytest.fixture
def running(desk):
    """A run in the middle of its steps, and its process."""
    desk.replace("max_steps = 10\nsave_steps = 3", "max_steps = 2000\nsave_steps = 0")
    process = begin(desk, "run", desk.profile)
    yield process, in_the_steps(desk)
    process.kill()
    process.communicate(timeout=60)


# -- the run's side -------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path):
    """The requests to a run in `tmp_path`, and a clock that is moved by hand."""
    now = [0.0]
    return Requests(tmp_path, clock=lambda: now[0]), tmp_path / FILE, now


def test_a_request_is_seen_once_and_looked_for_once_a_second(asked):
    found, path, now = asked
    path.touch()
    now[0] = 0.9
    assert not found.wants_checkpoint()
    assert path.exists()
    now[0] = 1.0
    assert found.wants_checkpoint()
    assert not path.exists()
    now[0] = 3.0
    assert not found.wants_checkpoint()


def test_what_was_asked_of_a_process_that_is_gone_is_forgotten(tmp_path):
    (tmp_path / FILE).touch()
    os.utime(tmp_path / FILE, (1, 1))
    with locked(tmp_path, COMMAND_LOCK):
        Requests(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_what_was_asked_while_it_loads_is_answered_after_the_first_step(tmp_path):
    with locked(tmp_path, COMMAND_LOCK):
        (tmp_path / FILE).touch()
        with locked(tmp_path):  # the main worker takes it later, and again when it was restarted
            os.utime(tmp_path / LOCK, (2e9, 2e9))
            Requests(tmp_path)
    assert (tmp_path / FILE).exists()


def test_a_request_that_cannot_be_taken_is_none(asked, monkeypatch):
    found, path, now = asked
    path.mkdir()  # cannot be unlinked, and would be seen every second
    now[0] = 1.0
    assert not found.wants_checkpoint()


# -- a checkpoint ---------------------------------------------------------------------------------


def test_a_checkpoint_is_written_when_it_is_asked_for(running, ftcore):
    process, folder = running
    code, out, err = ftcore("checkpoint", folder, "--wait", "50")
    assert (code, err) == (0, "")
    path = out.strip()
    assert path.startswith(f"{folder}/checkpoints/step-")
    assert verify(folder / "checkpoints" / path.rpartition("/")[2]) == ""
    assert not (folder / FILE).exists()
    code, out, _ = ftcore("checkpoint", folder, "--json")
    assert code == 0
    again = json.loads(out)
    assert again["path"] > path
    assert again["path"].endswith(f"step-{again['step']:06d}")
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(folder))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2, "two may ask at once"
    assert process.poll() is None, "the run goes on"


def ask(folder):
    return requests.ask_for_checkpoint(folder, wait=20, say=print)


def test_asked_before_training_has_begun_it_follows_the_first_step(desk, ftcore):
    desk.replace("max_steps = 10\nsave_steps = 3", "max_steps = 2000\nsave_steps = 0")
    process = begin(desk, "run", desk.profile, pause=3)
    try:
        end = time.monotonic() + 60
        while not desk.runs():
            assert time.monotonic() < end
            time.sleep(0.005)
        code, out, err = ftcore("checkpoint", desk.runs()[0], "--wait", "50")
        assert code == 0, err
        assert out.strip().endswith("step-000001")
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_run_that_takes_no_step_is_told_and_the_request_is_withdrawn(desk, ftcore):
    process = begin(desk, "run", desk.profile, "--set=train.log_steps=1", LIGHT_PAUSE="30")
    try:
        end = time.monotonic() + 60
        while not (desk.runs() and '"started"' in _text(desk.runs()[0] / "events.jsonl")):
            assert time.monotonic() < end
            time.sleep(0.02)
        folder = desk.runs()[0]
        code, out, err = ftcore("checkpoint", folder, "--wait", "0.5")
        assert (code, out) == (1, "")
        assert err == "no step has ended within 0.5 s, and the request is withdrawn; it is training\n"
        assert not (folder / FILE).exists()
    finally:
        process.kill()
        process.communicate(timeout=60)


def _text(path):
    return path.read_text("utf-8") if path.exists() else ""


def test_a_run_that_is_shipping_takes_no_more_steps(desk):
    folder = engine.run(desk.load()).folder
    events = [line for line in _text(folder / "events.jsonl").splitlines() if '"ended"' not in line]
    replace_text(folder / "events.jsonl", "\n".join(events) + "\n")
    attrs.evolve(read_manifest(folder), state=RunState.RUNNING).write(folder)
    said = rf"^{folder} takes no steps any more, it is exporting; its last checkpoint is of step 10$"
    with locked(folder, COMMAND_LOCK), pytest.raises(RunError, match=said):
        requests.ask_for_checkpoint(folder, wait=1, say=print)
    assert not (folder / FILE).exists()


def test_asked_at_the_last_step_it_does_not_wait_for_the_exports(desk, monkeypatch):
    folder = engine.run(desk.load()).folder
    attrs.evolve(read_manifest(folder), state=RunState.RUNNING).write(folder)
    (folder / "events.jsonl").unlink()
    with locked(folder, COMMAND_LOCK), Journal(folder) as journal:
        journal.event(EventKind.STAGE, number=5, total=7, title="training")
        journal.begin(10, 20)

        def place_too_late(request):
            request.touch()
            journal.event(EventKind.STAGE, number=6, total=7, title="judging after")

        monkeypatch.setattr(requests, "_place", place_too_late)
        with pytest.raises(RunError, match="takes no steps any more, it is judging after; its last checkpoint"):
            ask(folder)
    assert not (folder / FILE).exists()


# -- a stop ---------------------------------------------------------------------------------------


def test_a_run_is_stopped_and_goes_on_where_it_was(running, ftcore):
    process, folder = running
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "_signal", lambda watched: None)
        late = r"told to stop, and has not ended within 0.3 s; its last step was \d+, at \d\d:"
        with pytest.raises(RunError, match=late):
            requests.ask_to_stop(folder, wait=0.3, say=lambda text: None)
    code, out, _ = ftcore("stop", folder, "--wait", "50")
    assert code == 0
    info = run_info(folder)
    assert info.state == "stopped"
    steps = [path.name for path in (folder / "checkpoints").iterdir()]
    assert steps == [f"step-{info.step:06d}"]
    assert out == f"stopped; to go on from step {info.step}: ftcore run --resume {folder}\n"
    with locked(folder):  # it can be resumed at once
        pass
    assert process.wait(20) == 75


@pytest.mark.parametrize("command", ["stop", "checkpoint"])
def test_a_run_that_is_over_is_one_sentence(desk, ftcore, command, monkeypatch):
    monkeypatch.setattr(requests, "SETTLE_SECONDS", 0.0)
    folder = engine.run(desk.load()).folder
    assert ftcore(command, folder) == (1, "", f"{folder} is no longer running: it has finished\n")
    whole = read_manifest(folder)
    way = f"to go on from step 10: ftcore run --resume {folder}"
    for state, reason, said in (
        ("stopped", "SIGTERM received", f"it has been stopped (SIGTERM received); {way}"),
        ("failed", "no rows", f"it has failed (no rows); once that is mended, {way}"),
        ("running", "", f"its process was killed; {way}"),
    ):
        attrs.evolve(whole, state=RunState(state), reason=reason).write(folder)
        assert ftcore(command, folder) == (1, "", f"{folder} is no longer running: {said}\n")
    for entry in (folder / "checkpoints").iterdir():
        entry.rename(folder / entry.name)
    _, _, err = ftcore(command, folder)
    assert err.endswith(f"to go on from the start, since it has no checkpoint: ftcore run --resume {folder}\n")


@pytest.mark.parametrize("command", ["stop", "checkpoint", "monitor"])
def test_an_unknown_run_is_one_sentence(desk, ftcore, command):
    said = f"{desk.folder / 'nowhere'} is no run folder: it has no manifest.json\n"
    assert ftcore(command, "nowhere") == (1, "", said)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_is_a_number_of_seconds(desk, ftcore, seconds):
    code, _, err = ftcore("stop", "nowhere", f"--wait={seconds}")
    assert code == 2
    assert "--wait" in err


@pytest.fixture
def held(desk):
    """The folder of a run that another host, or another process, seems to work on."""
    folder = engine.run(desk.load()).folder
    attrs.evolve(read_manifest(folder), state=RunState.RUNNING).write(folder)

    def hold(text):
        lock = (folder / COMMAND_LOCK).open("r+", encoding="utf-8")
        lock.truncate(0)
        lock.write(text)
        lock.flush()
        return folder

    with locked(folder, COMMAND_LOCK):
        yield hold


def test_a_run_of_another_machine_is_stopped_there(held):
    folder = held("pid 77 on gpu-7")
    with pytest.raises(RunError, match=rf"^{folder} runs on gpu-7 \(pid 77\); stop it there$"):
        requests.ask_to_stop(folder, wait=1, say=print)


def test_a_process_that_only_has_the_number_is_left_alone(held, running):
    process, _ = running
    folder = held(f"pid {process.pid} on {socket.gethostname()}")
    with pytest.raises(RunError, match=rf"^pid {process.pid} is not seen from here, .* stop {folder} there$"):
        requests.ask_to_stop(folder, wait=1, say=print)
    assert process.poll() is None


def test_a_lock_that_says_nothing_is_one_sentence(held):
    folder = held("")
    with pytest.raises(RunError, match="does not say which process works on it"):
        requests.ask_to_stop(folder, wait=1, say=print)


# -- several processes ----------------------------------------------------------------------------


def test_a_killed_run_that_a_command_uses_does_not_run(desk):
    folder = engine.run(desk.load()).folder
    attrs.evolve(read_manifest(folder), state=RunState.RUNNING).write(folder)
    with borrowed(folder):
        assert run_info(folder).state == "interrupted"
        with pytest.raises(RunError, match="its process was killed"):  # and the other command is not told to end
            requests.ask_to_stop(folder, wait=1, say=print)


def test_a_run_whose_workers_start_again_is_used_by_nobody_else(desk):
    folder = engine.run(desk.load()).folder
    with (
        locked(folder, COMMAND_LOCK),
        pytest.raises(RunError, match=rf"in use by pid {os.getpid()} on"),
        borrowed(folder),
    ):
        raise AssertionError("taken from a run that goes on")
    with borrowed(folder), pytest.raises(RunError, match=rf"in use by pid {os.getpid()} on"):
        engine.resume(attrs.evolve(read_manifest(folder), state=RunState.STOPPED).write(folder) or folder)


def test_processes_that_somebody_else_has_started_checkpoint_and_stop_together(desk, tmp_path, ftcore):
    desk.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    desk.replace('profile = "cpu"\n', 'profile = "cpu"\nprocesses = 2\n')
    desk.replace("max_steps = 10\nsave_steps = 3", "max_steps = 2000\nsave_steps = 0")
    desk.append("\n[plugin.light_ranks]\n")
    common = {"WORLD_SIZE": "2", "LIGHT_MEETING": str(tmp_path / "meeting")}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    processes = [begin(desk, "run", desk.profile, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    try:
        folder = in_the_steps(desk)
        assert holder_of(folder).pid == processes[0].pid
        code, out, err = ftcore("checkpoint", folder, "--wait", "50")
        assert code == 0, err
        assert {path.name for path in (folder / "checkpoints" / out.strip().rpartition("/")[2]).iterdir()} >= {
            "state.json",
            "rank-1.json",
        }
        code, out, _ = ftcore("stop", folder, "--wait", "50", "--json")
        assert code == 0
        told = {"state": "stopped", "reason": "SIGTERM received", "step": run_info(folder).step}
        assert json.loads(out) == told
        assert [process.wait(30) for process in processes] == [75, 75]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=60)
