"""One tracker's process, as the run sees it: started, started again when it dies, told of the end, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ftcore.tracking.cursor import FOLDER, Cursor, cursor_file, log_file, read_cursor
from ftcore.tracking.following import ending, left

Say = Callable[[str], None]

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds until a process that has died is started again; they double."""

STEADY_SECONDS = 60.0
"""One that has lived for so long did not die of its start."""

TOLD = 3
"""So often a tracker's troubles are told; one that comes and goes must not fill the terminal."""

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Beside:
    """The process of the tracker `name`, which lives beside the run in `folder`."""

    def __init__(self, folder: Path, name: str, say: Say, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self._folder = folder
        self._say = say
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._due = 0.0
        self._wait = FIRST_WAIT
        self._trouble: Cursor | None = None
        self._told = 0
        self._late = False
        self._said: set[str] = set()

    @property
    def cursor(self) -> Cursor:
        """How far it is."""
        return read_cursor(cursor_file(self._folder, self.name))

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_done(self) -> bool:
        """Whether everything is sent, and the tracker closed with the state that the run has ended with."""
        cursor = self.cursor
        return cursor.closed == ending(self._folder)[0] and left(self._folder, cursor) == (0, 0)

    @property
    def is_failing(self) -> bool:
        """Whether it is known not to get anything through."""
        return self._trouble is not None or bool(self.cursor.error)

    def look(self) -> None:
        """Start it if it should run and does not; tell how it fares when that has changed."""
        if not self.is_running and time.monotonic() >= self._due:
            self._mourn()
            self.start()
        self.report()

    def start(self) -> None:
        """Start it."""
        self._started = time.monotonic()
        self._due = self._started + self._wait  # should it die at once
        log = log_file(self._folder, self.name)
        command = [sys.executable, "-m", "ftcore.cli", "tracker", str(self._folder), self.name]
        try:
            log.parent.mkdir(exist_ok=True)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)  # libraries may print secrets
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [*command, "--parent", str(os.getpid()), *self._arguments],
                    stdin=subprocess.PIPE,
                    stdout=descriptor,
                    stderr=descriptor,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C, and a terminal that closes, are for the run alone
                )
            finally:
                os.close(descriptor)
        except OSError as error:
            self._complain(f"cannot be started ({error.strerror})")

    def end(self) -> None:
        """Say that the run is over: what is left is to be sent. A process that died gets one more chance."""
        if not self.is_running and not self.is_done:
            self.start()
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has died
                self._process.stdin.write(b"end\n")
                self._process.stdin.close()

    def kill(self) -> None:
        """End the process, and those that it started, if it is still there."""
        if self._process is None or self._process.poll() is not None:
            return
        self._late = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def lack(self) -> str:
        """What has not been sent, and why; empty if nothing."""
        if self.is_done:
            return ""
        cursor = self.cursor
        points, events = left(self._folder, cursor)
        missing = f"{points} points and {events} events are not sent" if points or events else "it was not closed"
        why = cursor.error or self._fate()
        return f"{missing}{f' ({why})' if why else ''}"

    def report(self) -> None:
        """Tell how it fares, when that has changed."""
        cursor = self.cursor
        for text in [text for text in cursor.said if text not in self._said]:
            self._said.add(text)
            self._say(f"{self.name}: {text}")
        if cursor.error and cursor.failures != 1:  # one failure may be a hiccup
            self._complain(f"cannot send: {cursor.error}; it tries again")
        elif self._trouble is not None and not cursor.error and _beyond(cursor, self._trouble):
            self._trouble = None
            if self._told <= TOLD:
                self._say(f"tracker {self.name} sends again")

    def _fate(self) -> str:
        if self._late:
            return "it took too long"
        code = self._process.returncode if self._process else 0
        return f"exit code {code}, see {FOLDER}/{self.name}.log" if code else ""

    def _mourn(self) -> None:
        if self._process is None:
            return
        lived = time.monotonic() - self._started
        self._wait = FIRST_WAIT if lived > STEADY_SECONDS else min(2 * self._wait, LONGEST_WAIT)
        if not self.cursor.error:
            log = f"{FOLDER}/{self.name}.log"
            self._complain(f"has died with exit code {self._process.returncode}, see {log}; it is started again")

    def _complain(self, text: str) -> None:
        if self._trouble is not None:
            return
        self._trouble, self._told = self.cursor, self._told + 1
        if self._told <= TOLD:
            self._say(f"warning: tracker {self.name} {text}, and the run goes on")


def _beyond(cursor: Cursor, place: Cursor) -> bool:
    return (cursor.metrics_bytes, cursor.events_bytes) != (place.metrics_bytes, place.events_bytes)


def _environment() -> dict[str, str]:
    """A tracker is no rank of the run, and needs neither its GPUs nor its threads."""
    kept = {name: value for name, value in os.environ.items() if name not in RANKS and "TORCHELASTIC" not in name}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
