"""Shared by the tests of `files`: its rows and problems for one path, and files of every format."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import DataTable, Problem, Profile, Row, RowSource, Run, RunTable
from ftcore_plugins.files import Files

GOOD = b'{"a": 1}\n'

CACHE = tempfile.TemporaryDirectory()
"""Where the tests that do not look at the cache have theirs; the user's own is left alone."""

Paths = Path | Sequence[Path] | None


def run_of(path: Paths, cache: Path | None = None, **data: Any) -> Run:
    paths = tuple(path) if isinstance(path, Sequence) else path
    tables = {"run": RunTable(cache_dir=cache or Path(CACHE.name)), "data": DataTable(path=paths, **data)}
    return Run(name="x", folder=Path("nowhere"), profile=Profile(**tables))


def source(path: Paths, cache: Path | None = None, **data: Any) -> RowSource:
    found = Files().load_rows(run_of(path, cache, **data))
    assert isinstance(found, RowSource)
    return found


def load(path: Paths, cache: Path | None = None, **data: Any) -> list[Row]:
    """Every row to train on, part by part. Raises the `RowError` of the first broken one."""
    return [row for part in source(path, cache, **data).parts for row in part.rows]


def values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows]


def check(path: Paths, **data: Any) -> list[Problem]:
    return list(Files().check(run_of(path, **data)))


def write_jsonl(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def pack(path: Path, content: bytes) -> Path:
    """Write the content as the last suffix says."""
    path.write_bytes(packed(path.suffix, content))
    return path


def packed(suffix: str, content: bytes) -> bytes:
    if suffix == ".zst":
        import pyarrow as pa

        return bytes(pa.Codec("zstd").compress(content))
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


def write_parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def write_arrow(path: Path, *, stream: bool, **columns: Any) -> Path:
    import pyarrow as pa

    table = pa.table(columns)
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(str(path), table.schema) as writer:
        writer.write_table(table)
    return path
