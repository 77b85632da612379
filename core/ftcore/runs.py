"""Run folders: made whole, locked while in use, and listed."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import attrs
import tomli_w

from ftcore.errors import ProfileError, RunError
from ftcore.files import replace_text
from ftcore.journal.metrics import read_points
from ftcore.journal.writing import METRICS
from ftcore.manifest import FILE, Manifest, read_manifest
from ftcore.values import RunState

PROFILE = "profile.toml"
LOCK = ".lock"
"""Held by whoever works in the folder: the run's main worker, or a command that uses what an ended run has left."""

COMMAND_LOCK = ".command.lock"
"""Held by the process that the user started, from a run's first moment to its last: while it is held, the run goes on.
The main worker may be another process, on another machine, and is a new one after each restart."""

LOCK_TRIES = 10
INTERRUPTED = "interrupted"
HOLDER = re.compile(r"pid (?P<pid>\d+) on (?P<host>.+)")
_STAGING = ".new-"


def planned_folder(output_dir: Path, name: str) -> Path:
    """A folder that no run has: `runs/NAME-20261120-140501`, with a number behind it if need be."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"  # local time, as people name folders
    folder, number = output_dir / stem, 1
    while folder.exists():
        number += 1
        folder = output_dir / f"{stem}-{number}"
    return folder.absolute()


def create_run_folder(folder: Path, settings: Mapping[str, Any], manifest: Manifest) -> Path:
    """Write a new run folder beside its place and rename it, so that a kill leaves none half-made.

    Returns where it is: another run may have taken the name since it was planned.
    Raises `ProfileError` when `run.output_dir` cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder.parent))
        try:
            staging.chmod(0o755)
            write_profile(staging, settings)
            manifest.write(staging)
            return _renamed(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ProfileError(f"run.output_dir: {folder.parent} cannot be written: {error.strerror}") from error


def _renamed(staging: Path, folder: Path) -> Path:
    for place in itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))):
        try:
            return staging.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise AssertionError("there is always a next number")


def write_profile(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the resolved profile, whole or not at all."""
    replace_text(folder / PROFILE, tomli_w.dumps(settings))


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the run in `folder`. The system frees the lock of a process that died, however it died.

    Raises `RunError` that names the holder when another process has it, or when the folder cannot be written.
    """
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
        if _is_held(folder / COMMAND_LOCK):  # its main worker is not up yet, or starts anew
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


@attrs.frozen(kw_only=True)
class RunInfo:
    """One run in a list. `state` is `interrupted` for a run that was killed."""

    name: str
    folder: Path
    state: str
    created: str
    step: int
    total_steps: int
    loss: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**attrs.asdict(self), "folder": str(self.folder)}


def list_runs(output_dir: Path) -> list[RunInfo]:
    """Every run below `output_dir`, newest first. Folders that are no runs are passed over."""
    if not output_dir.is_dir():
        return []
    found = []
    for manifest in output_dir.glob(f"*/{FILE}"):
        try:
            found.append(run_info(manifest.parent))
        except RunError:
            continue
    return sorted(found, key=lambda info: (info.created, info.name), reverse=True)


def state_of(folder: Path, manifest: Manifest) -> str:
    """How a run stands: `interrupted` when it was killed, else as its manifest says."""
    if manifest.state != RunState.RUNNING or _is_held(folder / COMMAND_LOCK):
        return str(manifest.state)
    last = read_manifest(folder).state  # it may have ended since, and writes that before it lets go
    return INTERRUPTED if last == RunState.RUNNING else str(last)


def run_info(folder: Path) -> RunInfo:
    """How the run in `folder` stands. Raises `RunError` when it is no run."""
    manifest = read_manifest(folder)
    step, loss = 0, None
    for point in read_points(folder / METRICS):
        if "loss" in point.metrics:
            step, loss = point.step, point.metrics["loss"]
    return RunInfo(
        name=folder.name,
        folder=folder,
        state=state_of(folder, manifest),
        created=manifest.created,
        step=max(manifest.step, step),
        total_steps=manifest.total_steps,
        loss=loss if loss is not None and math.isfinite(loss) else None,
    )
