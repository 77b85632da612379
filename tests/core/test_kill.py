"""kill -9 at random moments of a light run: the same command goes on to the same figures. The real thing,
with torch, is benchmarks/kill_resume.py."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from ftcore import engine
from ftcore.checkpoints import CheckpointStore, verify
from ftcore.locks import is_locked
from ftcore.runs import run_info
from journals import figures

STEPS = 40
KILLS = 10


@pytest.fixture
def whole(desk):
    """The folder of a run that nobody killed."""
    desk.replace("max_steps = 10", f"max_steps = {STEPS}")
    return engine.run(desk.load()).folder


@pytest.fixture
def begin(desk):
    """Start `ftcore` on the light profile; a step takes `pause` seconds."""

    def start(*arguments, pause="0.01"):
        environment = {**os.environ, **desk.installation.env, "LIGHT_PAUSE": pause}
        command = [sys.executable, "-m", "ftcore.cli", "run", *map(str, arguments), "--quiet"]
        return subprocess.Popen(command, cwd=desk.folder, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def ended(process):
    """The exit code, and the last line on standard error."""
    _, err = process.communicate(timeout=60)
    return process.returncode, (err.splitlines() or [""])[-1]


def new_folder(desk, whole):
    """The run's folder, as soon as it is there, and how long that took: a busy machine needs longer."""
    started = time.monotonic()
    while not (new := [path for path in desk.runs() if path != whole]):
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    return new[0], time.monotonic() - started


def test_ten_kills_lose_nothing(desk, whole, begin):
    """One run, killed again and again wherever it is, is resumed until it ends."""
    draw = random.Random(20261120)
    process = begin(desk.profile, pause="0.03")
    folder, beginning = new_folder(desk, whole)
    for kill in range(KILLS + 1):
        if kill < KILLS:
            time.sleep(draw.uniform(0.0, 0.5) + (draw.uniform(0.15, beginning) if kill else 0.0))
            process.kill()
        code, said = ended(process)
        if code == 0:
            break
        assert (kill < KILLS, code) == (True, -signal.SIGKILL), said
        assert not is_locked(folder)
        state = run_info(folder).state
        assert state in ("interrupted", "finished")
        if state == "finished":  # killed between its last word and its end
            break
        store = CheckpointStore(folder=folder / "checkpoints", keep=2)
        assert [verify(checkpoint.folder) for checkpoint in store.all()] == [""] * len(store.all())
        process = begin("--resume", folder, pause="0.03")
    assert kill >= 3, "most of it was done at once; let it take longer"
    assert figures(folder) == figures(whole)
    for name in ("adapter/weight.json", "exports/light.json", f"checkpoints/step-{STEPS:06d}/state.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert run_info(folder).state == "finished"
    left = {path.name for path in folder.rglob(".*")}
    assert left == {".command.lock", ".lock"}, "nothing half-written is left"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_process_commits_and_its_exit_code_says_so(desk, whole, begin, number, code):
    process = begin(desk.profile)
    deadline = time.monotonic() + 30
    while not any((path / "metrics.jsonl").exists() for path in desk.runs() if path != whole):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert ended(process) == (code, f"stopped: {number.name} received")
    (folder,) = [path for path in desk.runs() if path != whole]
    assert run_info(folder).state == "stopped"
    assert not (folder / "exports").exists()
    assert ended(begin("--resume", folder))[0] == 0
    assert figures(folder) == figures(whole)


def test_a_second_process_on_the_same_run_is_refused_and_the_first_goes_on(desk, whole, begin):
    process = begin(desk.profile, pause="0.06")
    deadline = time.monotonic() + 30
    while not any((path / "metrics.jsonl").exists() for path in desk.runs() if path != whole):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder,) = [path for path in desk.runs() if path != whole]
    code, said = ended(begin("--resume", folder))
    assert code == 1
    assert said.startswith(f"{folder} is in use by pid {process.pid} on ")
    assert ended(process)[0] == 0
    assert figures(folder) == figures(whole)


def test_nothing_is_left_beside_the_folders_of_killed_runs(desk, whole, begin):
    """Killed while it starts, over and over: the output folder holds runs and nothing else."""
    for moment in (0.2, 0.25, 0.3, 0.35):
        process = begin(desk.profile)
        time.sleep(moment)
        process.kill()
        ended(process)
    names = [path.name for path in (desk.folder / "runs").iterdir()]
    assert [name for name in names if not name.startswith(("light-", ".new-"))] == []
    for folder in desk.runs():
        assert run_info(folder).state in ("finished", "interrupted")
