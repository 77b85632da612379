"""The reader of each format that is not JSONL."""

from __future__ import annotations

from collections.abc import Iterator

from ftcore_plugins.files.arrow_rows import arrow_rows
from ftcore_plugins.files.csv_rows import csv_rows
from ftcore_plugins.files.faults import DataFault, guarded, reading
from ftcore_plugins.files.formats import BINARY, opened
from ftcore_plugins.files.json_rows import has_a_row_a_line, json_rows
from ftcore_plugins.files.places import DataFile
from ftcore_plugins.files.values import Numbered

__all__ = ["is_jsonl", "numbered_rows"]


def is_jsonl(file: DataFile) -> bool:
    """Whether the file has a JSON object a line, whatever it is called."""
    if file.format.kind != "json":
        return file.format.kind == "jsonl"
    with reading(file.path), opened(file.path, file.format.packing) as stream:
        return has_a_row_a_line(stream)


def numbered_rows(file: DataFile) -> Iterator[Numbered]:
    """The rows with their numbers, as they are read. Raises `DataFault` for what is wrong with the whole file."""
    empty = True
    for numbered in guarded(_rows(file), file.path):
        empty = False
        yield numbered
    if empty:
        raise DataFault("the file has no rows; write some or remove it", file.path)


def _rows(file: DataFile) -> Iterator[Numbered]:
    kind = file.format.kind
    if kind in BINARY:
        yield from arrow_rows(file.path, kind)
        return
    with opened(file.path, file.format.packing) as stream:
        if kind == "json":
            yield from json_rows(stream, file.path)
        else:
            yield from csv_rows(stream, file.path, "," if kind == "csv" else "\t")
