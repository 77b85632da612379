"""Tokenized rows in Arrow files that are mapped, not read: any program that knows Arrow can look at them.

One file for each range of rows, written by whichever process formatted it. A row costs its tokens, the bounds
of its trained spans, its replies and its origin. https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcore.data.sequences import View
from ftcore.values import MASKED, Example

SUFFIX = ".arrow"


class Writer:
    """Writes examples, batch by batch, into one file. A context manager."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._schema = pa.schema(
            [
                ("input_ids", pa.list_(pa.int32())),
                ("trained", pa.list_(pa.int32())),
                ("replies", pa.list_(pa.string())),
                ("origin", pa.string()),
                ("features", pa.string()),
                ("folder", pa.string()),
            ]
        )
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, examples: Sequence[Example]) -> None:
        """Append them."""
        import pyarrow as pa

        if examples:
            columns = zip(*map(_as_record, examples), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))


class Stored(View[Example]):
    """The examples in a folder's files, read when they are asked for. Pickles as the folder's name."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        files = sorted(folder.glob(f"*{SUFFIX}"))
        tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
        self._folder = folder
        self._columns = pa.concat_tables(tables).columns if tables else []

    def __len__(self) -> int:
        return len(self._columns[0]) if self._columns else 0

    def __reduce__(self) -> Any:
        """Another process maps the same files."""
        return Stored, (self._folder,)

    def at(self, place: int) -> Example:
        """See `View`."""
        ids, spans, replies, origin, features, folder = (column[place] for column in self._columns)
        tokens, bounds = _numbers(ids), _numbers(spans)
        folder = folder.as_py()
        return Example(
            input_ids=tokens,
            labels=_labels(tokens, bounds),
            replies=tuple(replies.as_py()),
            origin=origin.as_py(),
            features=json.loads(text) if (text := features.as_py()) else {},
            folder=Path(folder) if folder else None,
        )


def key_of(example: Example) -> int:
    """64 bits of a hash over what the model sees of a row: twins have the same."""
    digest = hashlib.blake2b(array("i", example.input_ids).tobytes(), digest_size=8)
    if example.features:
        digest.update(_as_json(example).encode())
    return int.from_bytes(digest.digest(), "little")


def trained_bounds(labels: Sequence[int]) -> list[int]:
    """First and last-plus-one position of each trained span, one after the other."""
    trained = bytes(map(MASKED.__ne__, labels))  # searched by the interpreter, not in a loop of ours
    bounds: list[int] = []
    start = trained.find(1)
    while start >= 0:
        stop = trained.find(0, start)
        stop = len(trained) if stop < 0 else stop
        bounds += (start, stop)
        start = trained.find(1, stop)
    return bounds


def _as_record(example: Example) -> tuple[Any, ...]:
    return (
        example.input_ids,
        trained_bounds(example.labels),
        example.replies,
        example.origin,
        _as_json(example) if example.features else None,
        str(example.folder) if example.folder else None,
    )


def _as_json(example: Example) -> str:
    return json.dumps(example.features)


def _labels(tokens: Sequence[int], bounds: Sequence[int]) -> list[int]:
    labels = [MASKED] * len(tokens)
    for start, stop in _pairs(bounds):
        labels[start:stop] = tokens[start:stop]
    return labels


def _pairs(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(bounds[::2], bounds[1::2], strict=True)


def _numbers(scalar: Any) -> list[int]:
    """The numbers of a list in a column. Arrow would make an object of each of them first."""
    values = scalar.values
    buffer = values.buffers()[1]
    if not len(values) or buffer is None:
        return []
    return memoryview(buffer).cast("i")[values.offset : values.offset + len(values)].tolist()
