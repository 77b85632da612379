"""Prepared data that runs share: folders named by what they were made from, never by a date.

An entry is written beside its place and renamed into it, so that two runs that make the same one at once do
not disturb each other: the second one's is thrown away. A list of its files, written last, tells a whole entry
from a torn one. Whoever writes or maps an entry holds a lock on that list, which the system frees when the
process ends, however it ends: what nobody holds can be deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import attrs

from ftcore.errors import RunError
from ftcore.files import disk_is_full, sync_tree
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


def key_for(parts: Any) -> str:
    """A SHA-256 over what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(run: Run, kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of the cache that `build` filled for this `key`, now or in an earlier run.

    `key` must say all that the content depends on (a SHA-256, say). `kind` is a word that a person knows the
    content by. Raises `RunError` when there is no room or the cache cannot be written, and what `build` raises.
    """
    root = cache_folder(run)
    folder = root / kind / key
    if _is_whole(folder):
        with suppress(OSError):  # a cache that is only read is as good
            os.utime(folder / ENTRY)
        return folder
    with _staging(root, kind) as (staging, entry):
        try:
            build(staging)
            _write_entry(entry, staging, kind=kind, key=key, run=run.name)
        except OSError as error:
            if disk_is_full(error):
                raise RunError(f"no room for prepared rows in {root}; set run.cache_dir") from error
            raise
        with _alone(root):
            _move(staging, folder)
    return folder


def hold(folder: Path) -> TextIO | None:
    """Keep an entry from being cleared until the file is closed, or the process ends. None for another folder."""
    try:
        file = (folder / ENTRY).open(encoding="utf-8")
    except OSError:
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def entries(root: Path) -> list[Entry]:
    """Every entry below `root`, the one that was used last first."""
    found = [entry for folder in _folders(root) if (entry := _read_entry(folder))]
    return sorted(found, key=lambda entry: -entry.used)


def clear(root: Path, *, unused_since: float = float("inf")) -> list[Entry]:
    """Delete the entries that no run has asked for since then, and what killed runs left; return the former.

    An entry that a live run reads stays, and is not returned.
    """
    if not root.is_dir():
        return []
    with _alone(root):
        old = [entry for entry in entries(root) if entry.used < unused_since]
        removed = [entry for entry in old if _delete(entry.folder)]
        _sweep(root)
    return removed


def _folders(root: Path) -> Iterator[Path]:
    for kind in sorted(root.iterdir()) if root.is_dir() else []:
        yield from (path for path in sorted(kind.iterdir()) if path.is_dir()) if kind.is_dir() else ()


@contextmanager
def _staging(root: Path, kind: str) -> Iterator[tuple[Path, TextIO]]:
    """A new folder and its list of files, which is locked; what is left of it at the end is deleted."""
    folder = root / kind / f"{STAGING}{uuid.uuid4().hex}"
    try:
        (root / kind).mkdir(parents=True, exist_ok=True)
        with _alone(root):
            _sweep(root)
            folder.mkdir()
            entry = (folder / ENTRY).open("x", encoding="utf-8")
            fcntl.flock(entry, fcntl.LOCK_EX)
    except OSError as error:
        raise RunError(f"prepared rows cannot be kept in {root}: {error.strerror}; set run.cache_dir") from error
    with entry:
        try:
            yield folder, entry
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """For the moments in which entries appear and go: no other process is in one of them."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's file system may not lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(root: Path) -> None:
    """Delete what killed runs left."""
    for folder in _folders(root):
        if folder.name.startswith(STAGING):
            _delete(folder)


def _delete(folder: Path) -> bool:
    """Delete an entry, whole or not, unless a process holds it; anything else stays."""
    try:
        with (folder / ENTRY).open("r+", encoding="utf-8") as file:  # NFS wants to write what it locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed first: no run may take a half of it for the whole.
            aside = folder.rename(folder.with_name(f"{STAGING}{uuid.uuid4().hex}"))
            shutil.rmtree(aside, ignore_errors=True)
    except OSError:
        return False
    return True


def _write_entry(entry: TextIO, folder: Path, **about: Any) -> None:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    sync_tree(folder)  # a file that a power cut emptied has its size still
    json.dump({**about, "files": sizes}, entry)
    entry.flush()
    os.fsync(entry.fileno())


def _move(staging: Path, folder: Path) -> None:
    if _is_whole(folder):  # another run was faster, and its entry is as good as ours
        return
    if folder.is_dir():
        shutil.rmtree(folder)
    staging.rename(folder)


def _is_whole(folder: Path) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in _read_list(folder)["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_list(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / ENTRY).read_text("utf-8"))
    return values


def _read_entry(folder: Path) -> Entry | None:
    """What the list says, whole or not; None for a folder that is no entry."""
    try:
        values = _read_list(folder)
        if (values["kind"], values["key"]) != (folder.parent.name, folder.name):
            return None
        used = (folder / ENTRY).stat().st_mtime
        total = sum(values["files"].values())
        return Entry(kind=values["kind"], key=values["key"], folder=folder, bytes=total, used=used, run=values["run"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
