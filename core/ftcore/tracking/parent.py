"""Whether the run beside which a tracker's process works still goes on, however it ends."""

from __future__ import annotations

import faulthandler
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftcore.locks import has_worker

LOOK_SECONDS = 0.5

ORPHAN_SECONDS = 60.0
"""How long a tracker may go on sending when its run was killed. `ftcore sync` sends what is left."""


class Parent:
    """The process that started this one. It is over once it has said so on standard input, closed it, or died.

    Standard input alone would not do: processes that the run forked, such as those that load its batches, hold its
    other end, and may outlive it for a while.
    """

    def __init__(self, folder: Path, process: int, tick: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._process = process
        self._tick = tick
        self._over = threading.Event()

    def watch(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="ftcore-parent", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether the journal has its last line, or never will have one."""
        return self._over.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the run goes on."""
        self._over.wait(seconds)

    def _watch(self) -> None:
        orphaned = False
        while True:
            if self._over.is_set():
                time.sleep(LOOK_SECONDS)
            else:
                self._listen()
            if orphaned and has_worker(self._folder):  # a look later, since a dead run may hold its lock for a moment
                os._exit(0)  # the run goes on in another process, with trackers of its own
            if not orphaned and os.getppid() != self._process:
                orphaned = True
                faulthandler.dump_traceback_later(ORPHAN_SECONDS, exit=True)
                self._over.set()
            self._tick()

    def _listen(self) -> None:
        try:
            if select.select([0], [], [], LOOK_SECONDS)[0]:
                self._over.set()
        except (OSError, ValueError):  # no standard input
            self._over.set()
