"""All trackers of a run: their processes follow its journal, and nothing that they do can hurt it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ftcore.errors import printable
from ftcore.secrets import without_secrets
from ftcore.tracking.starting import Beside, Say

LOOK_SECONDS = 1.0

FINISH_SECONDS = 60.0
"""How long the end of a run waits for trackers that still have something to send."""

STOPPED_SECONDS = 10.0
"""The same for a run that was told to stop, and may be killed if it takes long."""

FAILING_SECONDS = 5.0
"""The same for a tracker that is known not to get anything through."""

LOOK_AGAIN = 0.05

PATIENCE = 2.0
"""After so long the user reads what is waited for."""


class Trackers:
    """Starts a process for each of `names`, keeps it alive while the run goes on, and ends it."""

    def __init__(self, folder: Path, names: Sequence[str], say: Say, arguments: Sequence[str] = ()) -> None:
        self._folder = folder
        self._tell = say
        self._all = [Beside(folder, name, self._say, arguments) for name in names]
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start them, from another thread: the run does not wait."""
        if self._all:
            self._thread = threading.Thread(target=self._watch, name="ftcore-trackers", daemon=True)
            self._thread.start()

    def finish(self, seconds: float = FINISH_SECONDS, hurry: Callable[[], bool] = lambda: False) -> list[str]:
        """The journal has its last line: wait until it is sent, and end those that cannot.

        Says what is left, and returns the names of those who have left something.
        """
        if self._thread is None:
            return []
        self._over.set()
        self._thread.join()
        behind = send_rest(self._all, seconds, min(seconds, FAILING_SECONDS), self._say, hurry)
        for tracker in behind:
            self._say(f"warning: tracker {tracker.name}: {tracker.lack()}; ftcore sync {self._folder} sends the rest")
        return [tracker.name for tracker in behind]

    def _say(self, text: str) -> None:
        self._tell(printable(without_secrets(text)))

    def _watch(self) -> None:
        while not self._over.is_set():
            for tracker in self._all:
                tracker.look()
            self._over.wait(LOOK_SECONDS)


def send_rest(
    trackers: Sequence[Beside], seconds: float, failing: float, say: Say, hurry: Callable[[], bool] = lambda: False
) -> list[Beside]:
    """Tell the trackers that the run is over, wait for them, and return those that lack something.

    One that takes longer than `seconds` is killed, and one that is known to fail after `failing` seconds.
    """
    for tracker in trackers:
        tracker.end()
    try:
        _wait(trackers, lambda tracker: 0 if hurry() else failing if tracker.is_failing else seconds, say)
    finally:  # Ctrl-C
        for tracker in trackers:
            tracker.kill()
    behind = [tracker for tracker in trackers if not tracker.is_done]
    for tracker in trackers:
        if tracker not in behind:
            tracker.report()
    return behind


def _wait(trackers: Sequence[Beside], seconds: Callable[[Beside], float], say: Say) -> None:
    start, told = time.monotonic(), False
    while waiting := [tracker for tracker in trackers if tracker.is_running]:
        waited = time.monotonic() - start
        for tracker in waiting:
            if waited > seconds(tracker):
                tracker.kill()
        if waited > PATIENCE and not told:
            told = True
            say(f"waiting for {', '.join(tracker.name for tracker in waiting)} to send the rest")
        time.sleep(LOOK_AGAIN)
