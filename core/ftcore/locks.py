"""Who holds a run: the system frees the lock of a process that died, however it died."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import attrs

from ftcore.errors import RunError

LOCK = ".lock"
"""Held by whoever works in the folder: the run's main worker, or a command that uses what an ended run has left."""

COMMAND_LOCK = ".command.lock"
"""Held by the process that the user started, from a run's first moment to its last: while it is held, the run goes on.
The main worker may be another process, on another machine, and is a new one after each restart."""

LOCK_TRIES = 10
HOLDER = re.compile(r"pid (?P<pid>\d+) on (?P<host>.+)")


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the run in `folder`. Raises `RunError` that names a holder, or says why the folder cannot be written."""
    with _lock_file(folder / name) as file:
        # Else a worker process of the run, which outlives a killed run for a moment, holds it on.
        os.register_at_fork(after_in_child=file.close)
        if not _acquired(file):
            raise _in_use(folder / name)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def borrowed(folder: Path) -> Iterator[None]:
    """Hold a run that has ended, to use what it has left. Raises `RunError` as `locked` does, also while it goes on."""
    with locked(folder):
        if goes_on(folder):  # its main worker is not up yet, or starts anew
            raise _in_use(folder / COMMAND_LOCK)
        yield


def _in_use(lock: Path) -> RunError:
    return RunError(f"{lock.parent} is in use by {lock.read_text('utf-8').strip() or 'another process'}; wait for it")


def _lock_file(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{path.parent} cannot be written ({error.strerror}); change its permissions, or copy it"
        ) from error


def _acquired(file: TextIO) -> bool:
    for _ in range(LOCK_TRIES):  # `is_locked` holds the lock for an instant, to see whether it can
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the folder: the run itself, or a command that uses it."""
    return any(_is_held(folder / name) for name in (COMMAND_LOCK, LOCK))


def goes_on(folder: Path) -> bool:
    """Whether the process that the user started is alive, even if nobody works in the folder for a moment."""
    return _is_held(folder / COMMAND_LOCK)


def has_worker(folder: Path) -> bool:
    """Whether a live process works in the folder; a run that starts again has none for a moment."""
    return _is_held(folder / LOCK)


@attrs.frozen(kw_only=True)
class Holder:
    """The process that holds a run, and the machine that it is on."""

    pid: int
    host: str
    lock: Path


def holder_of(folder: Path) -> Holder | None:
    """The process that the user started, which is to be asked when a run that goes on is to end."""
    path = folder / COMMAND_LOCK
    if _is_held(path) and (found := HOLDER.fullmatch(path.read_text("utf-8"))):
        return Holder(pid=int(found["pid"]), host=found["host"], lock=path)
    return None


def _is_held(path: Path) -> bool:
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
