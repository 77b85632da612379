"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftcore.api import RunError


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A path beside `target` that takes its place on a clean exit, and vanishes otherwise.

    Raises `RunError` where the disk is full, the folder may not be written, or the like.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise RunError(f"gguf: {target} cannot be written: {error.strerror or error}; {_fix(error)}") from error
    finally:
        _remove(partial)


def _fix(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some room and export again"
    return "make the folder writable and export again"


def _remove(partial: Path) -> None:
    with suppress(OSError):  # what keeps it from being written may keep it from being removed
        partial.unlink(missing_ok=True)
