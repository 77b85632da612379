"""Prepared data that runs share: folders named by what they were made from, never by a date.

An entry is written beside its place and renamed into it, so that two runs that make the same one at once do
not disturb each other: the second one's is thrown away. A list of its files, written last, tells a whole entry
from a torn one.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from ftcore.errors import RunError
from ftcore.files import disk_is_full
from ftcore.values import Run

ENTRY = "entry.json"
STAGING = ".new-"


@attrs.frozen(kw_only=True)
class Entry:
    """One folder of the cache. `used` is when a run last asked for it, in seconds since 1970."""

    kind: str
    key: str
    folder: Path
    bytes: int
    used: float
    run: str


def cache_folder(run: Run) -> Path:
    """`run.cache_dir`, or the user's own cache."""
    return run.profile.run.cache_dir or default_folder()


def default_folder() -> Path:
    """`ftcore` in the user's cache folder (https://specifications.freedesktop.org/basedir-spec/latest/)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "ftcore"


def cached(run: Run, kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of the cache that `build` filled for this `key`, now or in an earlier run.

    `key` must say all that the content depends on (a SHA-256, say). `kind` is a word that a person knows the
    content by. Raises `RunError` when there is no room, and what `build` raises.
    """
    folder = cache_folder(run) / kind / key
    if _is_whole(folder):
        os.utime(folder / ENTRY)
        return folder
    staging = folder.with_name(f"{STAGING}{key[:16]}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        staging.mkdir(parents=True)
        build(staging)
        _write_entry(staging, kind, key, run.name)
        _move(staging, folder)
    except OSError as error:
        if disk_is_full(error):
            raise RunError(f"no room for prepared rows in {cache_folder(run)}; set run.cache_dir") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def entries(root: Path) -> list[Entry]:
    """Every whole entry below `root`, the one that was used last first."""
    found = [entry for folder in _folders(root) if (entry := _read_entry(folder))]
    return sorted(found, key=lambda entry: -entry.used)


def clear(root: Path, *, unused_since: float = float("inf")) -> list[Entry]:
    """Delete the entries that no run has asked for since then, and what killed runs left; return the former."""
    removed = [entry for entry in entries(root) if entry.used < unused_since]
    for entry in removed:
        shutil.rmtree(entry.folder, ignore_errors=True)
    for folder in _folders(root):
        if folder.name.startswith(STAGING) and not _is_alive(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return removed


def _folders(root: Path) -> Iterator[Path]:
    for kind in sorted(root.iterdir()) if root.is_dir() else []:
        yield from (path for path in sorted(kind.iterdir()) if path.is_dir()) if kind.is_dir() else ()


def _write_entry(folder: Path, kind: str, key: str, run: str) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / ENTRY).write_text(json.dumps({"kind": kind, "key": key, "run": run, "files": sizes}), encoding="utf-8")


def _move(staging: Path, folder: Path) -> None:
    if folder.is_dir() and not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        staging.rename(folder)
    except OSError:
        if not _is_whole(folder):  # another run was faster, and its entry is as good as ours
            raise


def _is_whole(folder: Path) -> bool:
    entry = _read_entry(folder)
    return entry is not None


def _read_entry(folder: Path) -> Entry | None:
    try:
        values = json.loads((folder / ENTRY).read_text("utf-8"))
        sizes: dict[str, int] = values["files"]
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        used = (folder / ENTRY).stat().st_mtime
        total = sum(sizes.values())
        return Entry(kind=values["kind"], key=values["key"], folder=folder, bytes=total, used=used, run=values["run"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_alive(staging: Path) -> bool:
    try:
        os.kill(int(staging.name.split("-")[-2]), 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
