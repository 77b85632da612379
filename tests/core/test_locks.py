"""A run is held by one process; what holds it no more, however it ended, leaves it free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from ftcore.errors import RunError
from ftcore.locks import COMMAND_LOCK, LOCK, borrowed, goes_on, has_worker, holder_of, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from ftcore.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    """What is held need not be a run."""
    path = tmp_path / "one"
    path.mkdir()
    return path


@pytest.fixture
def holder():
    """A process that holds a run's lock, killed at the end."""
    started = []

    def hold(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_run(folder, holder):
    process = holder(folder)
    assert is_locked(folder)
    with pytest.raises(RunError) as caught, locked(folder):
        pytest.fail("the lock was given twice")
    assert str(caught.value) == f"{folder} is in use by pid {process.pid} on {os.uname().nodename}; wait for it"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_holder_is_free(folder, holder, number):
    process = holder(folder)
    process.send_signal(number)
    process.wait()
    assert not is_locked(folder)
    with locked(folder):
        assert is_locked(folder)
    assert not is_locked(folder)


FORKS = """
import os, sys, time
from pathlib import Path
from ftcore.locks import locked
listen, tell = os.pipe()
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        os.write(tell, b".")  # the fork is complete, and with it what the child does after it
        sys.stdout.close()
        time.sleep(20)  # as a worker that collates batches and has not noticed yet
        os._exit(0)
    os.read(listen, 1)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_child_that_outlives_a_killed_holder_does_not_hold_the_run(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        assert is_locked(folder), "the child's copy is closed, the holder's is not"
        process.kill()
        process.wait()
        assert not is_locked(folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


LOOKS = """
import sys
from pathlib import Path
from ftcore.locks import is_locked
print("held", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""


def test_a_look_at_the_lock_refuses_nobody(folder):
    """`ftcore runs` while a run starts."""
    with locked(folder):
        pass
    process = subprocess.Popen([sys.executable, "-c", LOOKS, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        for _ in range(100):
            with locked(folder):
                pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_lock_is_freed_when_the_run_fails(folder):
    with pytest.raises(ValueError, match="no"), locked(folder):
        raise ValueError("no")
    assert not is_locked(folder)


def test_the_lock_of_an_earlier_holder_names_nobody_wrong(folder, holder):
    with locked(folder):
        pass
    process = holder(folder)
    with pytest.raises(RunError, match=f"pid {process.pid} on"), locked(folder):
        pass
    assert (folder / LOCK).read_text().count("pid") == 1


def test_a_run_without_a_lock_file_is_free(folder):
    assert not is_locked(folder)


def test_the_command_that_was_started_is_the_one_to_tell(folder):
    with locked(folder):  # the main worker, or a command that uses what a run has left
        assert holder_of(folder) is None
        assert (has_worker(folder), goes_on(folder)) == (True, False)
    with locked(folder, COMMAND_LOCK):  # its workers start again
        holder = holder_of(folder)
        assert (has_worker(folder), goes_on(folder)) == (False, True)
    assert (holder.pid, holder.host, holder.lock.name) == (os.getpid(), socket.gethostname(), COMMAND_LOCK)
    assert holder_of(folder) is None


def test_what_a_run_leaves_is_used_by_nobody_while_it_goes_on(folder):
    with locked(folder, COMMAND_LOCK):
        with pytest.raises(RunError, match=f"in use by pid {os.getpid()} on"), borrowed(folder):
            pytest.fail("taken from a run whose workers start again")
        assert not has_worker(folder), "it has let go"
    with borrowed(folder):
        assert has_worker(folder)
