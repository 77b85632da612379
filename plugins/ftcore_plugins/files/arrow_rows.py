"""Rows of Parquet files, Arrow streams, and Arrow files, which are also Feather (https://arrow.apache.org)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.values import Broken, Numbered

__all__ = ["arrow_rows", "require_its_ends"]

BATCH = 1024
"""Rows that are in memory at once as Python objects."""

MAGIC = {"parquet": (b"PAR1",), "arrow": (b"ARROW1", b"\xff\xff\xff\xff")}
FEATHER_1 = b"FEA1"


def require_its_ends(file: Path, kind: str) -> None:
    """Raise `DataFault` unless the file begins as its format does, and Parquet ends so, too; reads no more."""
    with file.open("rb") as stream:
        start = stream.read(8)
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4))
        end = stream.read()
    if start.startswith(FEATHER_1):
        raise DataFault("the file is Feather version 1; write version 2, or Parquet", file)
    if not start.startswith(MAGIC[kind]) or (kind == "parquet" and end != start[:4]):
        raise _damaged(file, kind, "its first or last bytes are not")


def arrow_rows(file: Path, kind: str) -> Iterator[Numbered]:
    """The rows, counted from 1. Raises `DataFault` for a file that is none, or has two columns of one name."""
    number = 0
    try:
        for batch in _batches(file, kind):
            for row in _rows(batch):
                number += 1
                yield number, row
    except (DataFault, OSError):
        raise
    except Exception as error:  # Arrow raises whatever it stumbles over in a damaged file
        raise _damaged(file, kind, str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _damaged(file: Path, kind: str, reason: str) -> DataFault:
    return DataFault(f"the file is damaged or no {kind.title()}: {reason}; make it anew", file)


def _batches(file: Path, kind: str) -> Iterator[Any]:
    import pyarrow as pa

    require_its_ends(file, kind)
    with pa.OSFile(str(file)) as source:
        for batch in _reader(source, kind):
            _require_names(batch.schema.names, file)
            yield from (batch.slice(at, BATCH) for at in range(0, batch.num_rows, BATCH))


def _reader(source: Any, kind: str) -> Iterator[Any]:
    import pyarrow as pa

    if kind == "parquet":
        import pyarrow.parquet as pq

        return iter(pq.ParquetFile(source).iter_batches(batch_size=BATCH))
    start = source.read(8)
    source.seek(0)
    if not start.startswith(MAGIC["arrow"][0]):
        return iter(pa.ipc.open_stream(source))
    opened = pa.ipc.open_file(source)
    return (opened.get_batch(number) for number in range(opened.num_record_batches))


def _require_names(names: list[str], file: Path) -> None:
    twin = next((name for name, count in Counter(names).items() if count > 1), None)
    if twin is not None:
        raise DataFault(f"the column {twin!r} is there twice; rename one", file)


def _rows(batch: Any) -> Iterator[dict[str, Any] | Broken]:
    """The rows; a batch with texts that are no UTF-8 row by row. Raises `ArrowInvalid` for one that is damaged."""
    import pyarrow as pa

    try:
        # Offsets that lead out of the batch would be followed anywhere in the memory.
        batch.validate(full=True)
        yield from batch.to_pylist(maps_as_pydicts="strict")
    except (ValueError, KeyError, OverflowError) as error:
        if isinstance(error, pa.ArrowInvalid) and "UTF8" not in str(error):
            raise
        if batch.num_rows > 1:
            for at in range(batch.num_rows):
                yield from _rows(batch.slice(at, 1))
        else:
            yield Broken(_reason(error))


def _reason(error: Exception) -> str:
    if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8; write it as UTF-8"
    if isinstance(error, KeyError):
        return "a map has a key twice; keep one"
    return f"a value cannot be read: {str(error).strip().partition(chr(10))[0]}"
