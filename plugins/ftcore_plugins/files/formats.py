"""Which files hold rows, by their suffix, and how each is opened."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import IO, Any, Literal

import attrs

__all__ = ["KNOWN", "Format", "Kind", "format_of", "opened"]

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]

KINDS: Mapping[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
BINARY = ("parquet", "arrow")
"""Kinds that pack themselves."""

KNOWN = f"{', '.join(KINDS)}; text may be packed as .gz, .bz2, .xz or .zst"


@attrs.frozen
class Format:
    """What a file's name says of its content. `packing` is the suffix of the compression, or empty."""

    kind: Kind
    packing: str = ""


def format_of(name: str) -> Format | None:
    """The format of a file of this name; None if it is none that holds rows."""
    path = PurePath(name)
    packing = path.suffix.lower()
    if packing not in OPENERS:
        kind = KINDS.get(packing)
        return Format(kind) if kind else None
    kind = KINDS.get(PurePath(path.stem).suffix.lower())
    return Format(kind, packing) if kind and kind not in BINARY else None


def opened(path: Path, packing: str) -> IO[bytes]:
    """The file's bytes, unpacked as they are read."""
    return OPENERS[packing](path) if packing else path.open("rb")


def _zstandard(path: Path) -> Any:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


OPENERS: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
