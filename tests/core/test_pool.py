"""Ranges are answered in order, by this process or by others, and what goes wrong in one is told."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import pool_tasks
from ftcore.data.pool import MANY_ROWS, in_order, processes
from ftcore.errors import RowError, RunError

RANGES = [(n, n + 3) for n in range(0, 30, 3)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_come_in_order(workers) -> None:
    assert list(in_order(pool_tasks.add, RANGES, workers)) == [sum(part) for part in RANGES]


def test_other_processes_do_the_work_without_torch(tmp_path) -> None:
    answers = list(in_order(pool_tasks.about, RANGES, 2))
    assert os.getpid() not in {pid for pid, _, _ in answers}
    assert 1 <= len({pid for pid, _, _ in answers}) <= 2
    assert {parallel for _, parallel, _ in answers} == {"false"}
    assert not {name for _, _, heavy in answers for name in heavy}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_told_as_it_was_raised(workers) -> None:
    with pytest.raises(RowError, match="x:6: is odd") as caught:
        list(in_order(pool_tasks.refuse_six, RANGES, workers))
    assert (caught.value.origin, caught.value.raw) == ("x:6", "six")


def test_an_error_that_does_not_travel_is_told_in_words() -> None:
    with pytest.raises(RunError, match="StubbornError: no way"):
        list(in_order(pool_tasks.stubborn, RANGES, 2))


def test_a_process_that_is_killed_is_named(capfd) -> None:
    with pytest.raises(RunError, match=rf"has died \(exit code -{signal.SIGKILL:d}\); .* data.workers"):
        list(in_order(pool_tasks.die, RANGES, 2))


def test_a_process_that_ends_in_the_middle_of_an_answer_is_named(task) -> None:
    with pytest.raises(RunError, match=r"has died \(exit code 3\)"):
        list(in_order(task("half"), RANGES, 2))


def test_a_task_that_leaves_is_an_error(task) -> None:
    with pytest.raises(RunError, match="SystemExit: 0"):
        list(in_order(task("leave"), RANGES, 2))


def test_an_error_tells_where_it_was_raised(task) -> None:
    with pytest.raises(ValueError, match=r"^wrong") as caught:
        list(in_order(task("wrong"), RANGES, 2))
    assert "in a process that formats rows" in caught.value.__notes__[0]
    assert 'raise ValueError("wrong")' in caught.value.__notes__[0]


def test_a_task_that_reads_standard_input_takes_no_question(task) -> None:
    assert list(in_order(task("read"), RANGES, 2)) == [b""] * len(RANGES)


@pytest.mark.parametrize("what", ["pickles not", "is of a notebook"])
def test_a_task_that_cannot_be_sent_is_done_here(what, monkeypatch, caplog) -> None:
    task = lambda start, stop: start + stop  # noqa: E731
    if what == "is of a notebook":
        notebook = types.ModuleType("a_notebook")
        task.__module__, task.__qualname__, notebook.task = "a_notebook", "task", task
        monkeypatch.setitem(sys.modules, "a_notebook", notebook)
    assert list(in_order(task, RANGES, 2)) == [sum(part) for part in RANGES]
    assert "rows are formatted in one process, since others cannot" in caplog.text


def test_a_module_in_the_users_folder_takes_no_others_place(tmp_path, monkeypatch) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not the one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert list(in_order(pool_tasks.add, RANGES, 2)) == [sum(part) for part in RANGES]


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import tasks_of_a_test
from ftcore.data.pool import in_order
for pid in in_order(tasks_of_a_test.slow, [(n, n + 1) for n in range(1000)], 2):
    print(pid, flush=True)
"""


def test_processes_end_with_a_parent_that_is_killed(task, tmp_path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        pids = {int(parent.stdout.readline()) for _ in range(4)}
        parent.kill()
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


TASKS = """
import os, sys, time

def half(start, stop):
    os.write(4, b"\\x80\\x04\\x95")
    os._exit(3)

def leave(start, stop):
    sys.exit(0)

def wrong(start, stop):
    raise ValueError("wrong")

def read(start, stop):
    return os.read(0, 10)

def slow(start, stop):
    time.sleep(0.05)
    return os.getpid()
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of a module that other processes find."""
    (tmp_path / "tasks_of_a_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tasks_of_a_test", raising=False)
    return lambda name: getattr(importlib.import_module("tasks_of_a_test"), name)


def test_what_a_task_prints_does_not_disturb_the_answers(capfd) -> None:
    assert list(in_order(pool_tasks.chatter, RANGES, 2)) == RANGES
    assert "chatter" in capfd.readouterr().err


def test_processes_end_when_the_answers_are_no_longer_wanted() -> None:
    answers = in_order(pool_tasks.about, [(n, n + 1) for n in range(1000)], 2)
    pid, _, _ = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_few_rows_are_not_worth_a_process() -> None:
    cores = len(os.sched_getaffinity(0))
    assert processes(0, MANY_ROWS - 1) == 1
    assert processes(0, MANY_ROWS) == cores
    assert processes(3, 1) == 3
