"""Rows that are read from files when they are asked for."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, overload

import attrs

from ftcore.api import Row, RowError, RunError, hold
from ftcore_plugins.files.lines import Lines
from ftcore_plugins.files.parse import NotARowError, parsed, shown

__all__ = ["FileRows", "JsonlFile", "RowFile", "SpoolFile", "Stamp", "stamp_of"]

OPEN_FILES = 64
"""Files that one sequence keeps open; a process may have about a thousand."""

Stamp = tuple[int, int]
"""Size and time of the last change: a file that was read once must still be the same."""


class RowFile(Protocol):
    """A file with rows, one a line."""

    @property
    def path(self) -> Path:
        """The file to open."""

    @property
    def lines(self) -> Lines:
        """Where its rows are."""

    @property
    def stamp(self) -> Stamp | None:
        """What the file must look like when it is opened, unless nobody changes it."""

    def row(self, index: int, raw: bytes) -> Row:
        """The row on a line. Raises `RowError` if it is broken."""


@attrs.frozen(kw_only=True, eq=False)
class JsonlFile:
    """A JSONL file in its place, or a copy that was unpacked; `name` and `folder` are those of the original."""

    path: Path
    name: str
    folder: Path
    lines: Lines
    stamp: Stamp | None = None

    def row(self, index: int, raw: bytes) -> Row:
        """See `RowFile`."""
        number = self.lines.number(index)
        origin = f"{self.name}:{number}"
        try:
            values = parsed(raw, number, self.lines.starts[index])
        except NotARowError as error:
            raise RowError(str(error), origin=origin, raw=shown(raw)) from None
        return Row(values=values, origin=origin, folder=self.folder)


@attrs.frozen(kw_only=True, eq=False)
class SpoolFile:
    """Rows of another format, as `spool` wrote them. `place` is what stands before a row's number in its origin."""

    path: Path
    name: str
    folder: Path
    lines: Lines
    place: str
    stamp: None = None

    def row(self, index: int, raw: bytes) -> Row:  # noqa: ARG002  # the number is on the line
        """See `RowFile`."""
        number, found, *broken = json.loads(raw)
        origin = f"{self.name}:{self.place}{number}"
        if broken:
            raise RowError(found, origin=origin, raw=broken[0])
        return Row(values=found, origin=origin, folder=self.folder)


class FileRows(Sequence[Row]):
    """The rows of some files, one file after the other. Pickles without what is open; threads may share it."""

    def __init__(self, files: Sequence[RowFile]) -> None:
        self._files = tuple(files)
        self._ends = list(accumulate(len(file.lines) for file in files))
        self._open = _OpenFiles()
        # Copies lie in the folder that runs share, and must not be cleared from it while rows are read.
        self._held = [hold(file.path.parent) for file in self._files if file.stamp is None]

    def __reduce__(self) -> Any:
        """Another process holds and opens its own."""
        return FileRows, (self._files,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, place)
        file = self._files[which]
        within = place - (self._ends[which - 1] if which else 0)
        return file.row(within, self._open.read(which, file, within))


class _OpenFiles:
    """The files that were read last, by their place in the sequence."""

    def __init__(self) -> None:
        self._open: dict[int, _OpenFile] = {}

    def __reduce__(self) -> Any:
        """Another process opens its own."""
        return _OpenFiles, ()

    def read(self, which: int, file: RowFile, index: int) -> bytes:
        """The bytes of a line. Raises `RunError` when the file is no longer the one that was indexed."""
        start, end = file.lines.span(index)
        # Another thread may drop the file from the table meanwhile: it stays open as long as it is in use here.
        opened = self._open.get(which) or self._opened(which, file)
        raw = os.pread(opened.number, end - start, start)
        if len(raw) != end - start:
            raise _changed(file.path)
        return raw

    def _opened(self, which: int, file: RowFile) -> _OpenFile:
        opened = _OpenFile(file)
        for oldest in list(self._open)[: len(self._open) - OPEN_FILES + 1]:
            self._open.pop(oldest, None)
        self._open[which] = opened
        return opened


class _OpenFile:
    """A file descriptor, closed when nobody uses it any more. `os.pread` has no position that threads could share."""

    def __init__(self, file: RowFile) -> None:
        try:
            # Should a FIFO stand there by now, the opening must not wait for its writer.
            self.number = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RunError(f"{file.path}: cannot be read any more: {error.strerror}; start again") from error
        if file.stamp and stamp_of(self.number) != file.stamp:
            raise _changed(file.path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound here: when the interpreter ends, modules are emptied before the last objects go.
        if hasattr(self, "number"):
            close(self.number)


def stamp_of(file: Path | int) -> Stamp:
    """The stamp of a path, or of an open file."""
    status = os.stat(file)  # noqa: PTH116  # a descriptor, which is no path
    return status.st_size, status.st_mtime_ns


def _changed(path: Path) -> RunError:
    return RunError(f"{path}: the file changed since it was indexed; start again")
