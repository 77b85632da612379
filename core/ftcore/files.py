"""Write files so that a kill, a power cut or a reader never meets half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str, *, durable: bool = True, private: bool = False) -> None:
    """Write a whole file, so that a reader or a kill sees the old one or the new one; if `durable`, a power cut too.

    One that is `private` can be read by this user alone.
    """
    # An unpaired surrogate, which UTF-8 lacks, becomes the escape that JSON has for it.
    replace_bytes(path, text.encode("utf-8", "backslashreplace"), durable=durable, private=private)


def replace_bytes(path: Path, content: bytes, *, durable: bool = True, private: bool = False) -> None:
    """The same for what is no text."""
    staging = path.with_name(f".{path.name}.new")  # one name, so that a killed run leaves one file, soon replaced
    try:
        with staging.open("wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Replace a JSON document; not-a-number and infinity, which JSON lacks, become null."""
    replace_text(path, json.dumps(finite(document), indent=1, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with null for every number in it that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says so."""
    return _is_one_of(error, errno.ENOSPC, errno.EDQUOT)


def file_is_too_large(error: BaseException) -> bool:
    """Whether `error` says that a limit on the size of one file was met: the file system's, or the shell's."""
    return _is_one_of(error, errno.EFBIG)


def _is_one_of(error: BaseException, *codes: int) -> bool:
    """Safetensors has an exception of its own for what is an `OSError` elsewhere."""
    if isinstance(error, OSError):
        return error.errno in codes
    return any(f"os error {code})" in str(error) for code in codes)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path, *, without: Collection[str] = ()) -> str:
    """SHA-256 of a file's content; of a folder, of the names and contents of what `content_files` finds in it."""
    if path.is_file():
        return file_digest(path)
    lines = [f"{file.relative_to(path).as_posix()} {file_digest(file)}" for file in content_files(path, without)]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def content_files(path: Path, without: Collection[str] = ()) -> list[Path]:
    """The file, or every file of a folder, in a stable order, but for hidden ones and those with names in `without`."""
    if path.is_file():
        return [path]
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name not in without)
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def sync_tree(folder: Path) -> None:
    """Force every file below `folder`, and the folder itself, to the disk."""
    for path in [entry for entry in folder.rglob("*") if entry.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in [*(entry for entry in folder.rglob("*") if entry.is_dir()), folder]:
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
