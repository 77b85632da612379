"""Index a data file; one whose rows cannot be read by index is converted once into one whose can.

The copy lies in the folder that runs share, under the SHA-256 of the original: the same bytes are never converted
twice, and changed ones always. A line of it is `[number, {values}]`, or `[number, "reason", "raw"]` for a broken row.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from pathlib import Path

from ftcore.api import Run, cached
from ftcore_plugins.files.faults import guarded, reading
from ftcore_plugins.files.formats import opened
from ftcore_plugins.files.lines import CHUNK, Lines, scan
from ftcore_plugins.files.places import DataFile
from ftcore_plugins.files.readers import is_jsonl, numbered_rows
from ftcore_plugins.files.rows import JsonlFile, RowFile, SpoolFile, stamp_of
from ftcore_plugins.files.values import encoded

__all__ = ["indexed"]

VERSION = "1"
"""Of what a reader makes of the same bytes."""

KIND = "files"
ROWS = "rows.jsonl"


def indexed(run: Run, file: DataFile) -> tuple[RowFile, str]:
    """The file's rows, and the SHA-256 of its bytes. Raises `DataFault` for what is wrong with the whole file."""
    jsonl = is_jsonl(file)
    if jsonl and not file.format.packing:
        return _in_place(file)
    with reading(file.path), file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    form = "jsonl" if jsonl else file.format.kind
    key = f"{digest}-{form}{file.format.packing}-{VERSION}"
    folder = cached(run, KIND, key, _builder(_unpack if jsonl else _convert, file))
    lines, folder_of_file = Lines.load(folder), file.path.parent
    if jsonl:
        return JsonlFile(path=folder / ROWS, name=file.name, folder=folder_of_file, lines=lines), digest
    place = "" if form in ("csv", "tsv") else "row "
    return SpoolFile(path=folder / ROWS, name=file.name, folder=folder_of_file, lines=lines, place=place), digest


def _in_place(file: DataFile) -> tuple[RowFile, str]:
    with reading(file.path):
        stamp = stamp_of(file.path)
    lines, digest = scan(file.path)
    rows = JsonlFile(path=file.path, name=file.name, folder=file.path.parent, lines=lines, stamp=stamp)
    return rows, digest


def _builder(write: Callable[[DataFile, Path], Lines], file: DataFile) -> Callable[[Path], None]:
    return lambda folder: write(file, folder / ROWS).save(folder)


def _unpack(file: DataFile, target: Path) -> Lines:
    with reading(file.path):
        stream = opened(file.path, file.format.packing)
    with stream, target.open("wb") as copy:
        copy.writelines(guarded(iter(lambda: stream.read(CHUNK), b""), file.path))
    return scan(target, called=file.path)[0]


def _convert(file: DataFile, target: Path) -> Lines:
    starts = array("Q", [0])
    with target.open("wb") as copy:
        for number, values in numbered_rows(file):
            starts.append(starts[-1] + copy.write(encoded(number, values)))
    return Lines(starts=starts)
