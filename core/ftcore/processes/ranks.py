"""What the processes of one run do together. In a run of one process, all of it is nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ftcore.errors import RunError
from ftcore.plugins import Plugins
from ftcore.values import Run

T = TypeVar("T")

SLOWEST_SIGHT, BETWEEN_LOOKS = 10.0, 0.1
"""Seconds after which a file of one machine is seen on another one, if it ever is; and between two looks."""


class Ranks:
    """The processes of a run, from the view of one of them. All call the same methods in the same order."""

    def __init__(self, plugins: Plugins, run: Run) -> None:
        self._plugins = plugins
        self._run = run

    def tell(self, say: Callable[[], T]) -> T:
        """What the main process answers, on every process; `say` is only asked there. A barrier, too.

        The answer must be what JSON can hold: what is decided by looking at files is decided once.
        """
        world = self._run.world
        if world.size == 1:
            return say()
        text = json.dumps(say()) if world.is_main else None
        heard: Any = json.loads(self._plugins.share(self._run, text))
        return heard  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Until every process is here."""
        self.tell(lambda: None)

    def first_here_first(self, make: Callable[[], T]) -> T:
        """What `make` returns; on each machine, one process makes it before the others find it made."""
        if not self._run.world.is_first_here:
            self.wait()
            return make()
        made = make()
        self.wait()
        return made

    def require_shared(self, folder: Path) -> None:
        """Raise `RunError`, on every process, unless all machines see this folder of the main process."""
        world = self._run.world
        if world.local_size == world.size:  # all are on one machine
            return
        marks = [folder / f".seen-by-{rank}" for rank in range(1, world.size)]
        self.tell(lambda: _clear(marks))  # of an earlier attempt
        if not world.is_main:
            with suppress(OSError):
                marks[world.rank - 1].touch()
        self.wait()
        lacking = self.tell(lambda: _lacking(marks))
        if lacking:
            fix = "put run.output_dir on a file system that all machines share, at the same path"
            raise RunError(f"rank {lacking[0]} cannot write into {folder}, which the first machine has made; {fix}")


def _lacking(marks: Sequence[Path]) -> list[int]:
    """The ranks whose marks are not there; those that are have done their work."""
    end = time.monotonic() + SLOWEST_SIGHT
    while not all(mark.exists() for mark in marks) and time.monotonic() < end:
        time.sleep(BETWEEN_LOOKS)
    found = [rank for rank, mark in enumerate(marks, 1) if not mark.exists()]
    _clear(marks)
    return found


def _clear(marks: Sequence[Path]) -> None:
    for mark in marks:
        mark.unlink(missing_ok=True)
