"""The last word of each process of a run that ends early, left in its folder: so the others know why it has gone.

A process that waits for another one only hears that a connection is closed. By then, the reason lies beside the log
of the one that has gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs

from ftcore import errors
from ftcore.errors import FtcoreError, Interrupted, OutOfMemoryError, RunError
from ftcore.files import disk_is_full, replace_text
from ftcore.processes import failures
from ftcore.processes.attach import LOGS
from ftcore.values import Run

STOPPED = "Interrupted"
KINDS: Mapping[str, type[FtcoreError]] = {
    kind.__name__: kind for kind in (errors.ProfileError, errors.PluginError, errors.CrashError, RunError)
}
PATIENCE, BETWEEN_LOOKS = 2.0, 0.02
"""Seconds in which the main process may find the same, before another one tells it; and between two looks."""


@attrs.frozen(kw_only=True)
class Word:
    """How one process ended: `reason` is that of the run's end, `text` what the user is told, `at` seconds since 1970.

    `smaller` is that of `OutOfMemoryError`.
    """

    rank: int
    at: float
    kind: str
    reason: str
    text: str
    smaller: int = 0

    def error(self) -> FtcoreError:
        """What it raised, and tells the user, for another process to raise as well."""
        kind = partial(OutOfMemoryError, smaller=self.smaller) if self.smaller else KINDS.get(self.kind, RunError)
        error = kind(self.text)
        error.told = True
        return error


def leave(run: Run, error: FtcoreError | Interrupted, reason: str) -> None:
    """The last word of this process. Nothing where it is alone; nothing helps on a disk that is full."""
    if run.world.size == 1:
        return
    word = Word(
        rank=run.world.rank,
        at=time.time(),
        kind="RunError" if disk_is_full(error.__cause__ or error) else type(error).__name__,
        reason=reason,
        text=str(error),
        smaller=failures.smaller_batch(error),
    )
    with suppress(OSError):
        (run.folder / LOGS).mkdir(exist_ok=True)
        replace_text(_place(run.folder, run.world.rank), json.dumps(attrs.asdict(word)), durable=False)


def forget(folder: Path) -> None:
    """What processes of an earlier attempt have left is old news. Done by the main process, before the others go on."""
    for path in (folder / LOGS).glob("rank-*.json"):
        with suppress(OSError):
            path.unlink()


def words_in(folder: Path) -> list[Word]:
    """All of them, the first one first."""
    found = [_read(path) for path in (folder / LOGS).glob("rank-*.json")]
    return sorted((word for word in found if word is not None), key=lambda word: (word.at, word.rank))


def smaller_batch_in(folder: Path) -> int:
    """The micro-batch that the processes may fit with together, after memory ran out for one of them; else 0."""
    return min((word.smaller for word in words_in(folder) if word.smaller), default=0)


def true_reason(run: Run, error: BaseException, requested: Interrupted | None) -> BaseException:
    """What has ended the run: `error`, or what another process raised if this one has only lost it, or ended with it.

    `requested` is a signal that this process has been sent. A launcher sends one to all when one of them dies, so it
    counts as a stop only where another process was stopped as well, or where somebody else's launcher may mean it.
    """
    lost = failures.lost_another(error)
    if run.world.size == 1 or not (lost or isinstance(error, Interrupted)):
        return error
    others = [word for word in words_in(run.folder) if word.rank != run.world.rank]
    failed = next((word for word in others if word.kind != STOPPED), None)
    if failed is not None:
        return failed.error()
    if lost and requested is not None and (others or run.world.started_by != "ftcore"):
        return requested
    return error


def leave_to_main(error: FtcoreError | Interrupted, run: Run) -> None:
    """Mark the error of a process that found what the main one finds, too, which tells it. That may take a moment."""
    own = _read(_place(run.folder, run.world.rank))
    if run.world.is_main or own is None or isinstance(error, Interrupted):
        return
    end = time.monotonic() + PATIENCE
    while not error.told and time.monotonic() < end:
        main = _read(_place(run.folder, 0))
        error.told = main is not None and main.reason == own.reason
        time.sleep(BETWEEN_LOOKS)


def _place(folder: Path, rank: int) -> Path:
    return folder / LOGS / f"rank-{rank}.json"


def _read(path: Path) -> Word | None:
    try:
        return Word(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # not there; or what a newer ftcore has left
        return None
