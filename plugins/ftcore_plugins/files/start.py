"""A look at the first rows, which reads a few megabytes of a set of any size and imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftcore_plugins.files.arrow_rows import require_its_ends
from ftcore_plugins.files.faults import DataFault, reading
from ftcore_plugins.files.formats import BINARY, opened
from ftcore_plugins.files.lines import MAX_LINE, only_blank, too_long, without_mark
from ftcore_plugins.files.parse import NotARowError, parsed
from ftcore_plugins.files.places import DataFile
from ftcore_plugins.files.readers import is_jsonl, numbered_rows
from ftcore_plugins.files.values import Broken

__all__ = ["faults_at_the_start"]

CHECKED_LINES = 2000
CHECKED_BYTES = 4 * 2**20
IN_ARROW = ".zst"
"""What only Arrow unpacks; it takes a fifth of a second to import."""

Seen = tuple[int, bool | DataFault]
"""The size of a line or row; and whether it is a row, blank, or what is wrong with it."""


def faults_at_the_start(files: Sequence[DataFile]) -> list[DataFault]:
    """The broken rows among the first ones. Raises `DataFault` for what is wrong with a whole file."""
    faults: list[DataFault] = []
    lines = bytes_ = 0
    for file in files:
        for size, seen in _seen(file):
            if isinstance(seen, DataFault):
                faults.append(seen)
            lines, bytes_ = lines + 1, bytes_ + size
            if lines >= CHECKED_LINES or bytes_ >= CHECKED_BYTES:
                return faults
    return faults


def _seen(file: DataFile) -> Iterator[Seen]:
    if file.format.kind in BINARY:
        return _of_arrow(file)
    if file.format.packing == IN_ARROW:
        return iter(())
    return _of_lines(file) if is_jsonl(file) else _of_rows(file)


def _of_arrow(file: DataFile) -> Iterator[Seen]:
    with reading(file.path):
        require_its_ends(file.path, file.format.kind)
    return iter(())


def _of_rows(file: DataFile) -> Iterator[Seen]:
    for number, values in numbered_rows(file):
        fault = DataFault(values.reason, file.path, number) if isinstance(values, Broken) else None
        yield len(repr(values)), fault or True


def _of_lines(file: DataFile) -> Iterator[Seen]:
    offset, blank = 0, True
    with reading(file.path), opened(file.path, file.format.packing) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise too_long(file.path, number)
            raw = without_mark(line, file.path) if number == 1 else line
            offset += len(line) - len(raw)
            blank = blank and not raw.strip()
            yield len(line), _parsed(raw, number, offset, file)
            offset += len(raw)
    if blank:
        raise only_blank(file.path)


def _parsed(raw: bytes, number: int, offset: int, file: DataFile) -> bool | DataFault:
    if not raw.strip():
        return False
    try:
        parsed(raw, number, offset)
    except NotARowError as error:
        return DataFault(str(error), file.path, number)
    return True
