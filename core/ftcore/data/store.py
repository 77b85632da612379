"""Tokenized rows in Arrow files that are mapped, not read: any program that knows Arrow can look at them.

One file for each range of rows, written by whichever process formatted it. A row costs its tokens, the bounds
of its trained spans, its replies and its origin. https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ftcore.data.cache import hold
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
        """Append them. Raises `ValueError` for labels that are not the tokens of their places."""
        import pyarrow as pa

        if examples:
            columns = zip(*map(_as_record, examples), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))


class Stored(View[Example]):
    """The examples in a folder's files, read when they are asked for. Pickles as the folder's name.

    As long as it lives, the folder is not cleared from the cache: a worker process opens it again.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        self._folder = folder
        self._held = hold(folder)
        readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in sorted(folder.glob(f"*{SUFFIX}"))]
        self._blocks = [_Block(reader.get_batch(n)) for reader in readers for n in range(reader.num_record_batches)]
        self._ends = list(accumulate(map(len, self._blocks)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __reduce__(self) -> Any:
        """Another process maps the same files."""
        return Stored, (self._folder,)

    def at(self, place: int) -> Example:
        """See `View`."""
        block, row = self._found(place)
        return block.example(row)

    def origin(self, place: int) -> str:
        """Where the row at `place` is from; its tokens are not read."""
        block, row = self._found(place)
        return block.origin(row)

    def _found(self, place: int) -> tuple[_Block, int]:
        number = bisect_right(self._ends, place)
        return self._blocks[number], place - (self._ends[number - 1] if number else 0)


class _Block:
    """One batch of a file. Its numbers are read from the mapped bytes: Arrow would make an object of each first."""

    def __init__(self, batch: Any) -> None:
        ids, spans, *self._texts = batch.columns
        self._ids, self._spans = _Lists(ids), _Lists(spans)

    def __len__(self) -> int:
        return len(self._texts[0])

    def example(self, row: int) -> Example:
        replies, origin, features, folder = (column[row].as_py() for column in self._texts)
        tokens = self._ids[row]
        return Example(
            input_ids=tokens,
            labels=_labels(tokens, self._spans[row]),
            replies=tuple(replies),
            origin=origin,
            features=json.loads(features) if features else {},
            folder=Path(json.loads(folder)) if folder else None,
        )

    def origin(self, row: int) -> str:
        return str(self._texts[1][row].as_py())


class _Lists:
    """A column whose items are lists of 32-bit numbers."""

    def __init__(self, column: Any) -> None:
        _, ends, _, values = column.buffers()
        self._ends, self._values = (memoryview(buffer or b"").cast("i") for buffer in (ends, values))

    def __getitem__(self, row: int) -> list[int]:
        return self._values[self._ends[row] : self._ends[row + 1]].tolist()


def key_of(example: Example, *, has_files: bool = False) -> int:
    """64 bits of a hash over what the model sees of a row: twins have the same.

    Its features may name files: then their `content` tells, if they have one, else the folder and the names.
    """
    digest = hashlib.blake2b(array("i", example.input_ids).tobytes(), digest_size=8)
    if "content" in example.features:
        digest.update(json.dumps(example.features["content"]).encode())
    elif example.features:
        folder = example.folder if has_files else None
        digest.update(f"{folder}\n{json.dumps(example.features)}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little")


_HIGH_BYTE = 3 if sys.byteorder == "little" else 0
_IS_TOKEN = bytes(byte < 0x80 for byte in range(256))  # noqa: PLR2004  # the sign bit of a number


def trained_bounds(labels: Sequence[int]) -> list[int]:
    """First and last-plus-one position of each trained span, one after the other.

    Tokens are numbers from 0 on and `MASKED` is none, so the sign tells; it is searched by the interpreter, not in
    a loop of ours.
    """
    trained = array("i", labels).tobytes()[_HIGH_BYTE::4].translate(_IS_TOKEN)
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
        _bounds(example),
        example.replies,
        # A file's name may hold bytes that are no UTF-8, and which Python keeps as unpaired surrogates.
        example.origin.encode("utf-8", "backslashreplace").decode(),
        json.dumps(example.features) if example.features else None,
        json.dumps(str(example.folder)) if example.folder else None,
    )


def _bounds(example: Example) -> list[int]:
    """The trained spans. The labels are made of them again when the row is read, and must come out the same."""
    bounds = trained_bounds(example.labels)
    if _labels(example.input_ids, bounds) != list(example.labels):
        raise ValueError(f"{example.origin}: a row needs a label for each token, which is the token itself or {MASKED}")
    return bounds


def _labels(tokens: Sequence[int], bounds: Sequence[int]) -> list[int]:
    labels = [MASKED] * len(tokens)
    for start, stop in _pairs(bounds):
        labels[start:stop] = tokens[start:stop]
    return labels


def _pairs(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(bounds[::2], bounds[1::2], strict=True)
