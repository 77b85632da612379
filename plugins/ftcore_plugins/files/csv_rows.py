"""Rows of CSV and TSV files: a header, then a row a record. All values are texts.

https://www.rfc-editor.org/rfc/rfc4180
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.lines import MAX_LINE, too_long, without_mark
from ftcore_plugins.files.values import Broken, Numbered

__all__ = ["csv_rows"]

FATAL = ("unexpected end of data", "field larger than")
"""Errors after which the reader does not know where the next record begins."""


def csv_rows(stream: IO[bytes], file: Path, delimiter: str) -> Iterator[Numbered]:
    """The records below the header, each with the line that it begins on. Blank lines are skipped.

    Raises `DataFault` for a header that names no columns, and for a quote that is never closed.
    """
    lines = _Lines(stream, file)
    previous = csv.field_size_limit(MAX_LINE)
    try:
        records = _records(csv.reader(lines, delimiter=delimiter, strict=True), lines, file)
        header = _header(next(records, None), file, delimiter)
        yield from ((number, _row(header, cells, lines)) for number, cells in records if cells)
    finally:
        csv.field_size_limit(previous)


class _Lines:
    """The lines of a stream as text; remembers those of the current record."""

    def __init__(self, stream: IO[bytes], file: Path) -> None:
        # What is no UTF-8 stays as it is until its row is looked at.
        self._text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._file = file
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE:
            raise too_long(self._file, self.number)
        if self.number == 1:
            without_mark(_bytes(line), self._file)
        self.taken.append(line)
        return line

    def raw(self) -> str:
        """The current record as it stands in the file, with escapes for what is not UTF-8."""
        return _bytes("".join(self.taken)).decode("utf-8", "backslashreplace")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _records(reader: Iterator[list[str]], lines: _Lines, file: Path) -> Iterator[tuple[int, list[str] | str]]:
    """The cells of each record, or what is wrong with it."""
    while True:
        lines.taken.clear()
        number = lines.number + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(FATAL):
                raise DataFault("a quote that opens in this row is never closed; close it", file, number) from None
            yield number, f"broken CSV: {error}; a quote within quotes is written twice"


def _header(record: tuple[int, list[str] | str] | None, file: Path, delimiter: str) -> list[str]:
    number, names = record or (1, [])
    if isinstance(names, str):
        raise DataFault(names, file, number)
    if not any(names):
        raise DataFault("the file begins with no header; write the names of the columns into its first line", file)
    twin = next((name for name, count in Counter(names).items() if count > 1), None)
    if twin is not None:
        raise DataFault(f"the column {twin!r} is there twice; rename one", file, number)
    if "\0" in "".join(names) or _torn(names):
        raise DataFault("the header is not UTF-8; save the file as UTF-8", file, number)
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        named = "a comma" if delimiter == "," else "a tab"
        raise DataFault(f"the header names one column, {names[0]!r}; put {named} between columns", file, number)
    return names


def _row(header: list[str], cells: list[str] | str, lines: _Lines) -> dict[str, str] | Broken:
    if isinstance(cells, str):
        reason = cells
    elif len(cells) != len(header):
        reason = f"cells in the row: {len(cells)}, in the header: {len(header)}; write as many"
    elif "\0" in "".join(cells):
        reason = "the row has NUL bytes, as UTF-16 has; save the file as UTF-8"
    elif _torn(cells):
        reason = "the row is not UTF-8; save the file as UTF-8"
    else:
        return dict(zip(header, cells, strict=True))
    return Broken(reason, lines.raw())


def _torn(texts: list[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return True
    return False
