"""What one process asks of the run that another one works on: a checkpoint now, or an end.

A checkpoint is asked for by a file in the run's folder, which the main process looks for after a step; an end by the
signal that a run answers in every stage.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ftcore.display.progress import TRAINING
from ftcore.display.watching import Watched
from ftcore.early_end import last_step, way_on, way_on_once_mended
from ftcore.errors import RunError
from ftcore.locks import Holder, holder_of, is_locked
from ftcore.runs import INTERRUPTED
from ftcore.values import Event, EventKind, RunState

FILE = ".checkpoint-request"
LOOK_SECONDS = 1.0
"""How often a run looks for a request, at most."""

POLL_SECONDS = 0.2
SETTLE_SECONDS = 2.0
"""How long a run may have been begun, and not hold its folder yet."""

Say = Callable[[str], None]


class Requests:
    """The requests to the run in `folder`, as its main process sees them."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE
        self._clock = clock
        self._looked = clock()
        self._drop_stale(holder_of(folder))

    def wants_checkpoint(self) -> bool:
        """Whether somebody asks for a checkpoint, once for each time. Most calls only look at the clock."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return self._taken()

    def _taken(self) -> bool:
        try:
            self._path.unlink()
        except OSError:  # none there; or one that would be seen again and again
            return False
        return True

    def _drop_stale(self, holder: Holder | None) -> None:
        """Forget what was asked of an earlier process of the run: this one wrote its lock when it took the folder."""
        try:
            if holder is None or self._path.stat().st_mtime < holder.lock.stat().st_mtime:
                self._taken()
        except OSError:
            return


def ask_for_checkpoint(folder: Path, *, wait: float, say: Say) -> Path:
    """Have the run in `folder` write a checkpoint after its next step; where it lies.

    Raises `RunError` when the run is not training, or has not written it within `wait` seconds.
    """
    watched = _running(folder)
    _require_steps_ahead(watched)
    request = watched.folder / FILE
    _place(request)
    try:
        if not watched.progress.started:
            say("training has not begun; the checkpoint follows its first step")
        return _committed(watched, request, wait)
    except BaseException:  # also Ctrl-C
        request.unlink(missing_ok=True)
        raise


def ask_to_stop(folder: Path, *, wait: float, say: Say) -> Watched:
    """Have the run in `folder` end as it does on SIGTERM, and wait until it has; how it stands then.

    Raises `RunError` when it is not running, runs on another machine, or has not ended within `wait` seconds.
    """
    watched = _running(folder)
    _signal(watched)
    if watched.progress.stage and watched.progress.stage[2] == TRAINING:
        say("it finishes its step, and commits a checkpoint")
    end = time.monotonic() + wait
    while watched.is_running or is_locked(watched.folder):  # free, so that it can be resumed at once
        if time.monotonic() > end:
            told = f"{watched.folder} has been told to stop, and has not ended within {wait:g} s"
            raise RunError(f"{told}; {_last(watched)}")
        time.sleep(POLL_SECONDS)
        watched.look()
    return watched


def _running(folder: Path) -> Watched:
    """The run, if a live process works on it."""
    watched = Watched(folder)
    end = time.monotonic() + SETTLE_SECONDS
    while watched.state == INTERRUPTED and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        watched.look()
    if watched.is_running:
        return watched
    raise RunError(f"{watched.folder} is no longer running: {_end_of(watched)}")


def _end_of(watched: Watched) -> str:
    if watched.state == RunState.FINISHED:
        return "it has finished"
    if watched.state == INTERRUPTED:
        return f"its process was killed; {way_on(watched.folder)}"
    reason = f" ({watched.reason})" if watched.reason else ""
    if watched.state == RunState.STOPPED:
        return f"it has been stopped{reason}; {way_on(watched.folder)}"
    return "; ".join(filter(None, (f"it has failed{reason}", way_on_once_mended(watched.folder))))


def _require_steps_ahead(watched: Watched) -> None:
    progress = watched.progress
    if progress.is_over and progress.stage is not None:
        step = last_step(watched.folder)
        has = "it has no checkpoint" if step is None else f"its last checkpoint is of step {step}"
        raise RunError(f"{watched.folder} takes no steps any more, it is {progress.stage[2]}; {has}")


def _place(request: Path) -> None:
    try:
        request.touch()
    except OSError as error:
        raise RunError(f"{request.parent} cannot be written ({error.strerror}); ask as the user who runs it") from error


def _committed(watched: Watched, request: Path, wait: float) -> Path:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        taken = not request.exists()
        for one in watched.look():
            if not isinstance(one, Event):
                continue
            if taken and one.kind is EventKind.CHECKPOINT:
                return watched.folder / str(one.values["path"])
            if taken and one.kind is EventKind.STARTED:  # a process that has died took it along
                _place(request)
        if not watched.is_running:
            raise RunError(f"{watched.folder} ended before it wrote the checkpoint: {_end_of(watched)}")
        _require_steps_ahead(watched)  # its last step may have come before it looked
        time.sleep(POLL_SECONDS)
    if not request.exists():
        raise RunError(f"the checkpoint is not written within {wait:g} s, it may come still; {_last(watched)}")
    raise RunError(f"no step has ended within {wait:g} s, and the request is withdrawn; {_last(watched)}")


def _last(watched: Watched) -> str:
    """The last sign of life."""
    progress = watched.progress
    if not progress.time:
        return "it has not taken a step yet" if progress.stage is None else f"it is {progress.stage[2]}"
    return f"its last step was {progress.step}, at {datetime.fromtimestamp(progress.time):%H:%M:%S}"


def _signal(watched: Watched) -> None:
    """SIGTERM to the process that holds the run, if it is on this machine."""
    holder = watched.holder
    if holder is None:
        raise RunError(f"{watched.folder} does not say which process works on it; end that one with SIGTERM")
    if holder.host != socket.gethostname():
        raise RunError(f"{watched.folder} runs on {holder.host} (pid {holder.pid}); stop it there")
    if not _holds(holder):
        raise RunError(f"pid {holder.pid} is not seen from here, as in another container; stop {watched.folder} there")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended
    except PermissionError:
        raise RunError(f"pid {holder.pid} belongs to another user; stop {watched.folder} as that one") from None


def _holds(holder: Holder) -> bool:
    """Whether that process has the lock open, as far as the system tells: a number may mean another process here."""
    opened = Path("/proc") / str(holder.pid) / "fd"
    if not Path("/proc/self/fd").is_dir():  # no Linux
        return True
    try:
        return any(_same(descriptor, holder.lock) for descriptor in opened.iterdir())
    except PermissionError:
        return True  # the signal will tell
    except OSError:
        return False


def _same(descriptor: Path, lock: Path) -> bool:
    try:
        return descriptor.samefile(lock)
    except OSError:  # closed since, or no file
        return False
