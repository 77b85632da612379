"""`ftcore monitor`: the picture of a run from its folder's files, on a terminal, in lines, and as JSON."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import attrs
import pytest

from ftcore import engine
from ftcore.display.dashboard import dashboard, wrapped
from ftcore.display.drawing import ASCII, UNICODE
from ftcore.display.following import event_lines, follow_in_lines
from ftcore.display.watching import Watched
from ftcore.errors import RunError
from ftcore.journal.writing import Journal
from ftcore.locks import COMMAND_LOCK, locked
from ftcore.manifest import read_manifest
from ftcore.values import Event, EventKind, Notice, RunState
from light_processes import begin, in_the_steps


@pytest.fixture
def finished(desk):
    """The folder of a run that has finished."""
    return engine.run(desk.load()).folder


@pytest.fixture
def trained(finished):
    """A run in the middle of its steps, as its files say, which this process seems to work on."""
    attrs.evolve(read_manifest(finished), state=RunState.RUNNING).write(finished)
    for name in ("events.jsonl", "metrics.jsonl"):
        (finished / name).unlink()
    with locked(finished, COMMAND_LOCK), Journal(finished) as journal:
        journal.event(EventKind.STAGE, number=5, total=7, title="training")
        journal.begin(0, 100)
        for step in range(1, 51):
            journal.stepped(step)
            journal.point(step, {"loss": 3.0 / step, "learning_rate": 1e-3, **(GAUGES if step % 10 == 0 else {})})
        journal.point(50, {"eval_loss": 0.5, "eval_perplexity": 1.6, "eval_exact": 0.25, "eval_confusion/a/b": 3.0})
        journal.event(EventKind.CHECKPOINT, path="checkpoints/step-000050")
        notice = Notice(sign="loss-rising", text="the loss rises", advice="lower it", page="docs/health.md#loss-rising")
        journal.event(EventKind.NOTICE, **attrs.asdict(notice))
        yield finished, journal


GAUGES = {
    "system/cpu": 50.0,
    "system/host_memory": 7.5,
    "system/process_memory": 2.5,
    "system/gpu0/utilization": 75.0,
    "system/gpu0/memory": 61.25,
    "system/gpu0/temperature": 71.0,
    "system/gpu0/power": 300.0,
    "system/gpu11/utilization": 0.0,
}


def shown(folder, width=100, height=40, glyphs=UNICODE, **options):
    return [line.plain.rstrip() for line in dashboard(Watched(folder), width, height, glyphs, **options)]


def test_the_picture_of_a_run_that_trains(trained):
    folder, _ = trained
    lines = shown(folder, hint=True)
    assert lines[0].startswith(f"{folder.name}  running  pid {os.getpid()} on ")
    assert lines[1].startswith("[5/7] training  ━━━")
    assert "50/100  50%" in lines[1]
    assert "held-out 0.5000 at 50  checkpoint 50  1 warning" in lines[2]
    assert lines[3] == "perplexity 1.600  exact 0.250", "figures of tables are for the report"
    text = "\n".join(lines)
    assert "loss 0.06  held-out loss 0.5" in text
    assert f"gpu0   {'━' * 15}{'─' * 5} 75%  61.2 GiB  71 °C  300 W" in lines
    assert f"gpu11   {'─' * 20} 0%" in lines
    assert f"host   {'━' * 10}{'─' * 10} 50% cpu  7.5 GiB in use  2.5 GiB of them by the run" in lines
    assert "warning: step 50: the loss rises; lower it; see docs/health.md#loss-rising" in lines
    assert lines[-1] == "q leaves; the run goes on"


@pytest.mark.parametrize("width", [1, 9, 20, 47, 80, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_it_fits_any_terminal(trained, width, glyphs):
    folder, _ = trained
    lines = dashboard(Watched(folder), width, 30, glyphs, hint=True)
    assert max(line.cell_len for line in lines) <= width


def test_the_chart_takes_the_room_that_is_left(trained):
    folder, _ = trained
    assert len(shown(folder, height=24)) <= 24
    assert len(shown(folder, height=18)) < len(shown(folder, height=24))


def test_what_would_move_a_cursor_is_escaped():
    assert wrapped("a\x1b[2Jb", 20)[0].plain == r"a\x1b[2Jb"
    assert [line.plain for line in wrapped("warning: 漢字漢字 is odd", 10)] == ["warning:", "漢字漢字", "is odd"]


def test_a_finished_run_as_json_and_as_a_picture(finished, ftcore):
    code, out, err = ftcore("monitor", finished, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["state"], found["step"], found["total_steps"]) == ("finished", 10, 10)
    assert found["metrics"]["loss"] == found["curves"]["loss"][-1][1]
    assert [step for step, _ in found["curves"]["loss"]] == list(range(1, 11))
    assert found["evaluation"]["step"] == 8
    assert found["checkpoint"]["path"] == "checkpoints/step-000010"
    assert found["artifacts"] == [{"kind": "light", "verdict": "proved"}]
    assert found["seconds_left"] is None
    for arguments in ([], ["--once"]):
        code, out, _ = ftcore("monitor", finished, *arguments)
        assert code == 0
        assert out.startswith(f"{finished.name}  finished\n")
        assert "light: proved" in out


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("stopped", "SIGTERM received", "SIGTERM received"),
        ("failed", "the loss is nan", "the loss is nan"),
        ("running", "", ""),
    ],
)
def test_a_run_that_ended_early_says_how(finished, state, reason, said):
    attrs.evolve(read_manifest(finished), state=RunState(state), reason=reason).write(finished)
    lines = shown(finished)
    name = "interrupted" if state == "running" else state
    assert lines[0] == f"{finished.name}  {name}"
    assert lines[1] == said or not said


def test_torn_and_strange_lines_are_passed_over(finished):
    for name, torn in (("metrics.jsonl", '{"step": 11, "lo'), ("events.jsonl", '{"event": "sta')):
        text = (finished / name).read_text("utf-8")
        (finished / name).write_text(f'[1]\nnonsense\n{{"event": "new", "step": 1, "time": 1}}\n{text}{torn}', "utf-8")
    assert Watched(finished).progress.step == 10


def test_a_run_without_a_line_yet_has_a_picture_too(finished):
    for name in ("events.jsonl", "metrics.jsonl"):
        (finished / name).unlink()
    assert shown(finished) == [f"{finished.name}  finished"]


def test_a_folder_that_goes_away_is_one_sentence(finished):
    watched = Watched(finished)
    (finished / "manifest.json").unlink()
    with pytest.raises(RunError, match="is no run folder"):
        watched.look()


def test_a_run_that_went_on_from_a_checkpoint_is_read_anew_from_there(trained):
    folder, _ = trained
    watched = Watched(folder)
    assert watched.progress.losses.last_step == 50
    with Journal(folder) as again:
        again.event(EventKind.STAGE, number=5, total=7, title="training")
        again.begin(20, 100)
        for step in range(21, 31):
            again.point(step, {"loss": 9.0})
        watched.look()
    assert watched.progress.step == 30
    assert watched.progress.losses.points()[-11:] == [(20, 0.15), *((step, 9.0) for step in range(21, 31))]


def test_following_in_lines(trained):
    folder, journal = trained
    watched, written = Watched(folder), []

    def pause(seconds):
        if len(pauses) == 0:
            journal.stepped(51)
            journal.point(51, {"loss": 0.01})
            journal.point(51, {"eval_loss": 0.75})
            journal.event(EventKind.STAGE, number=6, total=7, title="judging after")
        else:
            attrs.evolve(read_manifest(folder), state=RunState.FAILED, reason="a disk is full").write(folder)
        pauses.append(seconds)

    pauses = []
    follow_in_lines(watched, written.append, pause)
    assert written == ["step 51: held-out loss 0.7500", "[6/7] judging after", "failed: a disk is full"]


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        ("checkpoint", {"path": "x"}, "step 7: checkpoint x"),
        ("notice", {"text": "odd", "advice": "try"}, "warning: step 7: odd; try"),
        ("notice", {"text": "odd", "advice": ""}, "warning: step 7: odd"),
        ("artifact", {"kind": "gguf", "proof": {"verdict": "proved"}}, "gguf: proved"),
        ("artifact", {"kind": "gguf"}, "gguf: None"),
    ],
)
def test_what_happened_on_a_line(kind, values, line):
    assert list(event_lines(Event(kind=EventKind(kind), step=7, time=0.0, values=values))) == [line]


# -- on a terminal --------------------------------------------------------------------------------


def on_a_terminal(folder, leave, term="xterm-256color"):
    """Start `ftcore monitor` on a terminal, `leave` it once it has drawn; its exit code and what it drew."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": term}
    command = [sys.executable, "-m", "ftcore.cli", "monitor", str(folder)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    drawn, told, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not told and b"training" in drawn:
            leave(process, leader)
            told = True
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            drawn += os.read(leader, 65536)
        except OSError:
            break
    os.close(leader)
    return process.wait(20), drawn.decode(errors="replace")  # SIGTERM may come between two bytes of a letter


LEAVES = {
    "q": (lambda process, leader: os.write(leader, b"q"), 0),
    "Ctrl-C": (lambda process, leader: process.send_signal(signal.SIGINT), 0),
    "SIGTERM": (lambda process, leader: process.send_signal(signal.SIGTERM), 75),
}


@pytest.mark.parametrize("way", LEAVES)
def test_who_leaves_gets_the_terminal_back_and_the_run_goes_on(trained, way):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    leave, expected = LEAVES[way]
    code, drawn = on_a_terminal(folder, leave)
    assert code == expected
    assert drawn.count("\x1b[?1049h") == drawn.count("\x1b[?1049l") == 1, "the screen that was there is back"
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l"), "and the cursor"
    assert "q leaves; the run goes on" in drawn
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing was written"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(trained):
    leave, expected = LEAVES["Ctrl-C"]
    code, drawn = on_a_terminal(trained[0], leave, term="dumb")
    assert code == expected
    assert "\x1b" not in drawn
    assert "[5/7] training" in drawn


def test_it_follows_a_run_to_its_end(desk):
    process = begin(desk, "run", desk.profile, "--set=train.max_steps=100", pause=0.02)
    folder = in_the_steps(desk)
    lines = begin(desk, "monitor", folder)
    out, err = lines.communicate(timeout=60)
    assert (lines.returncode, err) == (0, "")
    assert f"{folder.name}  running" in out
    assert "[7/7] exporting\nlight: proved\n" in out
    assert out.endswith("finished\n")
    process.communicate(timeout=60)
