"""Whether a run can write its results at all, before its model is known; `planning.storage` counts the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ftcore.errors import Problem, RunError
from ftcore.values import Run

LEAST_FREE = 256 * 2**20
"""Bytes: room for the checkpoints and exports of a small adapter."""


def disk_problems(run: Run) -> Iterator[Problem]:
    """An output folder that cannot be written, or a disk without room for the model that is exported."""
    place = _existing(run.folder.parent)
    key = "run.output_dir"
    if not place.is_dir():
        yield Problem(key=key, message=f"{place} is a file, not a folder; name another one")
    elif not os.access(place, os.W_OK | os.X_OK):
        yield Problem(key=key, message=f"{place} cannot be written; name another folder or change its permissions")
    else:
        free, needed = free_bytes(place), LEAST_FREE + _folder_size(run.profile.model.id)
        if free < needed:
            text = f"{free / 2**30:.1f} GiB free in {place}, but the run writes at least {needed / 2**30:.1f} GiB"
            yield Problem(key=key, message=f"{text}; free some, or name another folder")


def free_bytes(path: Path) -> int:
    """Room on the disk that `path` is on, or would be on."""
    return shutil.disk_usage(_existing(path)).free


def require_free(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raise `RunError` when the disk of `folder` has less than the bytes that something writes there."""
    free = free_bytes(folder)
    if free < needed:
        raise RunError(f"{what} writes about {size(needed)} and {folder} has {size(free)} free; {fix}")


def size(count: float) -> str:
    """Bytes for people, such as 1.2 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _folder_size(model: str) -> int:
    folder = Path(model)
    if not model or not folder.is_dir():
        return 0
    try:
        # Weights lie flat in their folder; what lies deeper may be a whole disk, if the id is a slip such as "..".
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    except OSError:
        return 0
