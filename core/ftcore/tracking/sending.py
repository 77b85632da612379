"""The work of one tracker's process: follow the journal, send what is new, try again, and close."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs

from ftcore.secrets import sentence, without_secrets
from ftcore.tracking.cursor import Cursor, cursor_file, read_cursor, write_cursor
from ftcore.tracking.following import News, ending, news
from ftcore.tracking.parent import Parent
from ftcore.values import EventKind, Tracker

T = TypeVar("T")

FIRST_POLL, LONGEST_POLL = 1.0, 10.0
"""Seconds between two looks at the journal, which double: whoever watches the start of a run sees it at once, and later
each look sends much in one go, since what a tracker calculates is taken from the training."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0

TRIES = 5
"""So often in a row one process tries; then a new one is started, since the library may be past helping."""

LAST_TRIES = 3
"""The same once the run is over, with a second between them."""

SLOW_SECONDS = 30.0
"""A call without an answer for so long is told of as one that has failed, though it may still succeed."""

SAID = 19
"""What the plugin tells the user is kept in the cursor, but not all of what a talkative one does."""


class GaveUpError(Exception):
    """This process cannot send; the cursor says why."""


class Sender:
    """Sends what a run in `folder` writes down, from where its cursor is."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = cursor_file(folder, name)
        self._cursor = attrs.evolve(read_cursor(self._path).succeeded(), closed="", said=())
        self._writing = threading.Lock()
        self._unwritten = False
        self._call: tuple[str, float] | None = None
        self._told: tuple[str, float] | None = None

    def work(self, parent: Parent, make: Callable[[int], Tracker]) -> None:
        """Send all that is there and comes, until the run is over. Raises `GaveUpError`."""
        self._change(lambda cursor: cursor)
        tracker = self._try(parent, "track", lambda: make(self._cursor.sent))
        pause = FIRST_POLL
        while True:
            over = parent.is_over  # before the last look: what was written before the end is seen
            for piece in news(self._folder, self._cursor):
                self._give(parent, tracker, piece)
            if over:
                break
            parent.wait(pause)
            pause = min(2 * pause, LONGEST_POLL)
        state, reason = ending(self._folder)
        self._try(parent, "close", lambda: tracker.close(state, reason))
        self._change(lambda cursor: attrs.evolve(cursor.succeeded(), closed=str(state)))

    def tick(self) -> None:
        """Called now and then, from another thread: says so when a call does not answer."""
        call = self._call
        if call is not None and call is not self._told and time.monotonic() - call[1] > SLOW_SECONDS:
            error = f"{call[0]} has not answered for {SLOW_SECONDS:g} s"
            self._change(lambda cursor: attrs.evolve(cursor, error=error) if self._call is call else cursor)
            self._told = call

    def say(self, text: str) -> None:
        """What the plugin tells the user is told by the run."""
        self._change(lambda cursor: attrs.evolve(cursor, said=(*cursor.said[-SAID:], without_secrets(text))))

    def _give(self, parent: Parent, tracker: Tracker, piece: News) -> None:
        event = piece.event
        if event is None:
            self._try(parent, "send", lambda: tracker.send(piece.points))
        elif event.kind is not EventKind.ENDED:
            self._try(parent, "tell", lambda: tracker.tell(event))
        self._change(lambda cursor: attrs.evolve(piece.after.succeeded(), said=cursor.said))

    def _try(self, parent: Parent, what: str, call: Callable[[], T]) -> T:
        """What `call` answers, however often it has to be asked."""
        failures = 0
        while True:
            try:
                self._call = (what, time.monotonic())
                return call()
            except BaseException as error:  # also one that calls sys.exit
                failures += 1
                self._failed(f"{what}: {sentence(error)}")
                if failures >= (LAST_TRIES if parent.is_over else TRIES):
                    raise GaveUpError from error
            finally:
                self._call = None
            _wait(parent, min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT))

    def _failed(self, why: str) -> None:
        self._change(lambda cursor: cursor.failed(why))

    def _change(self, change: Callable[[Cursor], Cursor]) -> None:
        """Go on with the cursor that `change` makes of the one by now: the plugin's threads may tell something."""
        with self._writing:
            self._cursor = change(self._cursor)
            try:
                write_cursor(self._path, self._cursor)
            except OSError as error:  # on a full disk, it is written the next time
                if not self._unwritten:
                    log = logging.getLogger("ftcore")
                    log.warning("%s cannot be written (%s); what is sent now may be sent again", self._path, error)
                self._unwritten = True


def _wait(parent: Parent, seconds: float) -> None:
    if parent.is_over:
        time.sleep(FIRST_WAIT)
    else:
        parent.wait(seconds)
