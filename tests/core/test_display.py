"""What a person sees: plain lines in a log, a bar in a terminal, nothing when quiet; and `run.log`."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from ftcore.cli.common import complain
from ftcore.display import Clock, Plain, Silent, Steady, choose_display, figures, plain
from ftcore.display.lines import Lines
from ftcore.display.live import Live
from ftcore.isolation import Traced
from ftcore.runlog import RunLog
from ftcore.summary import print_trace, summary_lines
from ftcore.values import Artifact, Outcome, Proof, RunState, Sample, Step, Verdict


def step(number, total=10, **metrics):
    return Step(number=number, total=total, epoch=0.0, metrics=metrics)


@pytest.fixture
def clock(monkeypatch):
    """The clock, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(plain.time, "monotonic", lambda: now[0])
    return now


# -- plain lines ----------------------------------------------------------------------------------


def test_plain_lines_are_a_stage_each_and_a_step_every_few_seconds(clock):
    lines: list[str] = []
    shown = Plain(lines.append)
    shown.stage(1, 7, "reading rows")
    shown.say("a [red]word[/red]")
    for number in range(1, 11):
        shown.step(step(number, loss=1 / number, learning_rate=1e-3, tokens_per_second=12345.6))
        clock[0] += 2
    shown.close()
    assert lines[:2] == ["[1/7] reading rows", "a [red]word[/red]"]
    assert [line.split()[1] for line in lines[2:]] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[2] == "step 1/10  loss 1.0000  lr 1.00e-03  12,346 tok/s  ? left"
    assert lines[3] == "step 4/10  loss 0.2500  lr 1.00e-03  12,346 tok/s  0:12 left"
    assert lines[-1].endswith("0:00 left")


def test_plain_lines_go_to_standard_error(capsys):
    Plain().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("seconds", "total", "shown"), [(1, 11, "0:09"), (10, 11, "1:30"), (100, 101, "2:45:00"), (0.01, 3, "0:00")]
)
def test_time_left(clock, seconds, total, shown):
    watch = Clock()
    assert watch.left(step(1, total)) == "?"
    clock[0] += seconds
    assert watch.left(step(2, total)) == shown


def test_a_resumed_run_counts_its_own_steps(clock):
    watch = Clock()
    watch.left(step(900, 1000))
    clock[0] += 1
    assert watch.left(step(901, 1000)) == "1:39"


def test_figures_are_those_that_are_there():
    assert figures({}) == ""
    assert figures({"loss": 2, "grad_norm": 5}) == "loss 2.0000"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "full"), ValueError("closed file")])
def test_a_display_that_fails_is_not_asked_again(error):
    asked = []

    def write(text):
        asked.append(text)
        raise error

    steady = Steady(Plain(write))
    steady.stage(1, 7, "reading rows")
    steady.step(step(1))
    steady.say("text")
    steady.close()
    assert asked == ["[1/7] reading rows"]


def test_a_display_that_works_is_told_everything():
    lines: list[str] = []
    steady = Steady(Plain(lines.append))
    steady.stage(1, 7, "reading rows")
    steady.step(step(1))
    steady.say("text")
    steady.close()
    assert [line.split()[0] for line in lines] == ["[1/7]", "step", "text"]


def test_silence(capsys):
    silent = Silent()
    silent.stage(1, 1, "x")
    silent.step(step(1))
    silent.say("x")
    silent.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("progress", "kind"), [("auto", Plain), ("plain", Plain), ("live", Live), ("json", Lines), ("quiet", Silent)]
)
def test_the_choice(progress, kind):
    chosen = choose_display(progress=progress)
    assert type(chosen) is kind, "pytest's standard error is no terminal"
    assert isinstance(choose_display(quiet=True, progress=progress), Silent)
    assert Steady(chosen).mode == (progress if progress != "auto" else "plain"), "what workers are told"


def test_without_standard_error_nothing_is_shown_on_the_other_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    choose_display(progress="plain").say("x")
    choose_display(progress="json").say("x")
    complain("x")
    assert capsys.readouterr().out == ""


def test_a_view_with_a_mistake_ends_no_run(caplog):
    class Broken(Silent):
        def step(self, step):
            raise KeyError("loss")

    steady = Steady(Broken())
    steady.step(step(1))
    steady.step(step(2))
    assert [record.getMessage() for record in caplog.records] == ["the display has failed, and shows nothing more"]
    assert steady.mode == "quiet"


LIVE = """
import sys
from ftcore.display import choose_display
from ftcore.values import Step
shown = choose_display()
print(type(shown).__name__)
shown.stage(1, 7, "reading rows")
for number in range(1, 4):
    shown.step(Step(number=number, total=3, epoch=0, metrics={"loss": 1.5 / number}))
    shown.say(f"said [b]{number}[/b]")
    print("a stray word", file=sys.stderr)
shown.close()
shown.say("after the bar")
"""


def on_a_terminal(term):
    """What a live view's process writes to standard output, and to a terminal of this kind."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stderr=follower, stdout=subprocess.PIPE, text=True, env=environment
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the last writer is gone
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return out, shown.decode()


def test_a_terminal_gets_a_bar_and_is_left_in_order():
    out, shown = on_a_terminal("xterm-256color")
    assert out == "Live\n", "standard output is somebody's data, and stays out of it"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "[1/7] reading rows" in text
    assert "3/3" in text
    assert "loss 0.5000" in text
    assert "said [b]2[/b]" in text, "what is said is no markup"
    assert "a stray word" in text
    assert "after the bar" in text
    assert "\x1b[?25l" not in shown, "a run that is killed cannot bring the cursor back"


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    out, shown = on_a_terminal("dumb")
    assert out == "Plain\n"
    assert "\x1b" not in shown


# -- run.log --------------------------------------------------------------------------------------


def test_the_log_has_what_was_said_with_the_time_and_what_libraries_warned_of(tmp_path):
    lines: list[str] = []
    with RunLog(tmp_path, Plain(lines.append)) as log:
        log.stage(1, 7, "reading rows")
        log.say("100 % of it")
        log.step(step(1, loss=1.0))
        logging.getLogger("some.library").warning("careful")
        logging.getLogger("some.library").info("chatter")
        log.close()
        log.say("after the bar")
    logging.getLogger("some.library").warning("too late")
    written = (tmp_path / "run.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in written)
    assert [line[20:] for line in written] == [
        "ftcore: [1/7] reading rows",
        "ftcore: 100 % of it",
        "some.library: careful",
        "ftcore: after the bar",
    ]
    assert lines == ["[1/7] reading rows", "100 % of it", "step 1/10  loss 1.0000  ? left", "after the bar"]


def test_what_plugins_log_is_said_once_and_written_once(tmp_path):
    lines: list[str] = []
    with RunLog(tmp_path, Plain(lines.append)):
        logging.getLogger("ftcore.plugins.chat").info("rows are read as %s", "messages")
        logging.getLogger("ftcore.plugins.chat").warning("odd")
        logging.getLogger("ftcore.plugins.chat").debug("not this")
    logging.getLogger("ftcore.plugins.chat").warning("too late")
    assert lines == ["rows are read as messages", "warning: odd"]
    written = [line[20:] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert written == ["ftcore: rows are read as messages", "ftcore: warning: odd"]


def test_the_log_is_appended_to_by_a_resumed_run(tmp_path):
    for text in ("first", "second"):
        with RunLog(tmp_path, Silent()) as log:
            log.say(text)
    assert [line.split()[-1] for line in (tmp_path / "run.log").read_text().splitlines()] == ["first", "second"]


def test_a_failing_run_leaves_the_terminal_and_the_root_logger_in_order(tmp_path):
    closed = []

    class Bar(Silent):
        def close(self):
            closed.append(True)

    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ValueError, match="no"), RunLog(tmp_path, Bar()):
        raise ValueError("no")
    assert closed
    assert logging.getLogger().handlers == handlers


# -- the end of a run -----------------------------------------------------------------------------


@pytest.fixture
def outcome(tmp_path):
    proof = Proof(verdict=Verdict.PROVED, figures={"kl": 0.012345})
    artifact = Artifact(kind="merged", path=tmp_path / "m", proof=proof)
    sample = Sample(origin="x:7", prompt="why?", expected="because", before="", after="be\ncause" + "\nx" * 20)
    (tmp_path / "adapter").mkdir()
    return Outcome(
        state=RunState.FINISHED,
        folder=tmp_path,
        step=9,
        loss_before=2.5,
        loss_after=1.25,
        scores_before={"exact": 0.25},
        scores_after={"exact": 0.75, "new": 1.0},
        samples=(sample,),
        artifacts=(artifact,),
    )


def test_the_summary_says_what_became_of_it_and_where_everything_is(outcome):
    text = "\n".join(summary_lines(outcome))
    assert "finished after 9 steps" in text
    assert "held-out loss  2.5000 before, 1.2500 after" in text
    assert "exact          0.250 before, 0.750 after" in text
    assert "new            nan before, 1.000 after" in text
    assert "sample from x:7" in text
    assert "(nothing)" in text
    assert "... 14 more lines" in text
    assert "proved: kl 0.0123" in text
    assert f"merged         {outcome.folder / 'm'}" in text
    assert f"adapter        {outcome.folder / 'adapter'}" in text
    assert f"run            {outcome.folder}" in text


def test_the_summary_of_a_run_without_held_out_rows(tmp_path):
    text = "\n".join(summary_lines(Outcome(state=RunState.FINISHED, folder=tmp_path, step=3)))
    assert "held-out" not in text
    assert "sample" not in text


def test_the_trace_adds_calls_up(capsys):
    calls = [
        Traced(hook="on_step", plugin="[tb]", seconds=0.25, answered=False),
        Traced(hook="on_step", plugin="[tb]", seconds=0.5, answered=True),
        Traced(hook="export", plugin="merge", seconds=2, answered=True),
    ]
    print_trace(calls)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split() for line in err.splitlines()] == [
        ["hook", "plugin", "calls", "answers", "seconds"],
        ["on_step", "[tb]", "2", "1", "0.750"],
        ["export", "merge", "1", "1", "2.000"],
    ]
