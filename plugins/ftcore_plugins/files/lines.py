"""Where the lines of a file begin: eight bytes a line, found in the one pass that also makes its SHA-256."""

from __future__ import annotations

import hashlib
import io
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import IO

import attrs

from ftcore_plugins.files.faults import DataFault, reading

__all__ = ["CHUNK", "MAX_LINE", "UTF16_STARTS", "Lines", "only_blank", "scan", "too_long", "without_mark"]

MAX_LINE = 64 * 2**20
"""Bytes of the longest line: a file without line ends must not fill the memory."""

CHUNK = 2**20
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def _numbers() -> array[int]:
    return array("Q")


@attrs.frozen(kw_only=True, eq=False)
class Lines:
    """The bounds of the lines that are not blank. `starts` has one entry a line, and the end of the last one.

    The `n`th run of blank lines comes after `gap_rows[n]` lines that are not; up to its end there are `gap_lines[n]`
    blank ones, and it begins at byte `gap_starts[n]`.
    """

    starts: array[int] = attrs.field(factory=_numbers)
    gap_rows: array[int] = attrs.field(factory=_numbers)
    gap_lines: array[int] = attrs.field(factory=_numbers)
    gap_starts: array[int] = attrs.field(factory=_numbers)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def number(self, index: int) -> int:
        """The number of the line in the file, counted from 1."""
        gap = bisect_right(self.gap_rows, index)
        return index + 1 + (self.gap_lines[gap - 1] if gap else 0)

    def span(self, index: int) -> tuple[int, int]:
        """The bytes of the line: the first, and the one after the last."""
        start, end = self.starts[index], self.starts[index + 1]
        if self.gap_rows:
            gap = bisect_right(self.gap_rows, index)
            if gap < len(self.gap_rows) and self.gap_rows[gap] == index + 1:
                end = self.gap_starts[gap]
        return start, end

    def save(self, folder: Path) -> None:
        """Write them into a folder, for `load`."""
        for name, numbers in attrs.asdict(self, recurse=False).items():
            with (folder / name).open("wb") as file:
                numbers.tofile(file)

    @classmethod
    def load(cls, folder: Path) -> Lines:
        """Read what `save` wrote."""
        return cls(**{name: array("Q", (folder / name).read_bytes()) for name in attrs.fields_dict(cls)})


def scan(path: Path, called: Path | None = None) -> tuple[Lines, str]:
    """The lines of the file, and the SHA-256 of its bytes. `called` is the file that a fault names, if another.

    Raises `DataFault` for a file that cannot be read, is not UTF-8 by its first bytes, has a line that is too
    long, or has only blank ones.
    """
    called = called or path
    found = _Found(called)
    digest = hashlib.sha256()
    with reading(called), path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            found.add(chunk)
    return found.lines(), digest.hexdigest()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    # About a megabyte at a time, cut at the ends of lines, unless a line is longer than it may be.
    while chunk := file.read(CHUNK):
        yield chunk if chunk.endswith(b"\n") else chunk + file.readline(MAX_LINE + 1)


def without_mark(start: bytes, file: Path) -> bytes:
    """The first bytes of a file without the byte order mark of UTF-8. Raises `DataFault` for another encoding's."""
    if start.startswith(UTF16_STARTS):
        raise DataFault("the file is UTF-16 or UTF-32, not UTF-8; convert it with iconv -t utf-8", file)
    return start.removeprefix(UTF8_BOM)


def too_long(file: Path, number: int) -> DataFault:
    """What is wrong with a line of more than `MAX_LINE` bytes."""
    return DataFault(f"the line is over {MAX_LINE >> 20} MB; write shorter ones", file, number)


def only_blank(file: Path) -> DataFault:
    """What is wrong with a file without rows."""
    return DataFault("the file has only blank lines; write one JSON object a line or remove it", file)


class _Found:
    """The lines that were met so far."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._starts, self._offset, self._blank = array("Q"), 0, 0
        self._gap_rows, self._gap_lines, self._gap_starts = array("Q"), array("Q"), array("Q")

    def add(self, chunk: bytes) -> None:
        """Go on with whole lines."""
        lines = list(io.BytesIO(chunk))  # a text's own splitlines would also split at \r
        if not self._offset:
            lines[0] = without_mark(lines[0], self._file)
            self._offset = len(chunk) - sum(map(len, lines))
        if len(chunk) > MAX_LINE:
            self._require_short(lines)
        for blank, group in groupby(filter(None, lines), bytes.isspace):
            sizes = list(map(len, group))
            if blank:
                self._add_blank(len(sizes))
            else:
                self._starts.extend(accumulate(sizes[:-1], initial=self._offset))
            self._offset += sum(sizes)

    def _add_blank(self, count: int) -> None:
        self._blank += count
        if self._gap_rows and self._gap_rows[-1] == len(self._starts):
            self._gap_lines[-1] = self._blank
            return
        self._gap_rows.append(len(self._starts))
        self._gap_lines.append(self._blank)
        self._gap_starts.append(self._offset)

    def _require_short(self, lines: Sequence[bytes]) -> None:
        for number, line in enumerate(lines, len(self._starts) + self._blank + 1):
            if len(line) > MAX_LINE:
                raise too_long(self._file, number)

    def lines(self) -> Lines:
        """What was found. Raises `DataFault` if all lines were blank."""
        if not self._starts:
            raise only_blank(self._file)
        self._starts.append(self._offset)
        return Lines(
            starts=self._starts, gap_rows=self._gap_rows, gap_lines=self._gap_lines, gap_starts=self._gap_starts
        )
