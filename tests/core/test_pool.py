"""Ranges are answered in order, by this process or by others, and what goes wrong in one is told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ftcore.data.pool import MANY_ROWS, in_order, processes
from ftcore.errors import RowError, RunError

sys.path.insert(0, str(Path(__file__).with_name("light")))
import pool_tasks

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
