"""What is wrong with data files, each in one sentence that names the place."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ftcore.api import Problem

__all__ = ["KEY", "DataFault", "guarded", "reading"]

KEY = "data.path"

T = TypeVar("T")


class DataFault(Exception):  # noqa: N818  # faults are what the tables of this project call them
    """What is wrong with the data, or with the options that name it; `message` is without the place, `str` has it."""

    def __init__(self, message: str, file: Path | None = None, line: int | None = None, *, key: str = KEY) -> None:
        place = f"{key}: " if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(place + message)
        self.message, self.file, self.line, self.key = message, file, line, key

    def problem(self) -> Problem:
        """The same for a report of many."""
        return Problem(message=self.message, key=self.key, file=self.file, line=self.line)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what goes wrong while `file` is read and unpacked into a `DataFault`."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataFault(f"the file is damaged or cut off: {_first_line(error)}; make it anew", file) from error
    except OSError as error:
        if error.errno is None:  # bz2 and Arrow have no kind of their own
            raise DataFault(f"the file is damaged or cut off: {_first_line(error)}; make it anew", file) from error
        raise DataFault(f"cannot be read: {error.strerror}", file) from error


def guarded(items: Iterable[T], file: Path) -> Iterator[T]:
    """The items, read under `reading`; what goes wrong where they are used is left alone."""
    with reading(file):
        yield from items


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text[:1].lower() + text[1:]
