"""What the processes of one run do together. In a run of one process, all of it is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from ftcore.plugins import Plugins
from ftcore.values import Run

T = TypeVar("T")


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
