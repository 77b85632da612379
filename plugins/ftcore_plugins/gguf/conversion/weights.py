"""Weights as they lie in safetensors files, read block by block, and as they are written.

A block is at most `BLOCK` bytes in float32, so that the memory needed does not grow with the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from safetensors import SafetensorError, safe_open

from ftcore.api import RunError
from ftcore_plugins.common.model_folder import read_header

BLOCK = 1 << 26
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
ITEM = {GGMLQuantizationType.F32: 4, GGMLQuantizationType.F16: 2, GGMLQuantizationType.BF16: 2}
TYPES = {name.lower(): GGMLQuantizationType[name] for name in ("F32", "F16", "BF16")}


class BeyondFloat16Error(RunError):
    """A weight is larger than float16 can hold."""


class Numbers(Protocol):
    """Where the numbers of a tensor come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As transformers has it, rows first."""

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) in float32; those of a vector are its numbers."""


@attrs.frozen(eq=False)
class Made:
    """Numbers that no file holds."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy has it."""
        return tuple(self.values.shape)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) in float32."""
        return self.values[first:last].astype(np.float32)


@attrs.frozen(kw_only=True)
class Stored:
    """One tensor of a safetensors file: its type there, its shape, and where its bytes begin."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) in float32; those of a vector are its numbers."""
        stored = STORED[self.dtype]
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        at = self.offset + first * width * np.dtype(stored).itemsize
        flat = np.fromfile(self.path, dtype=stored, count=(last - first) * width, offset=at)
        if self.dtype == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        numbers: np.ndarray = flat.astype(np.float32, copy=False)
        return numbers.reshape(last - first, *self.shape[1:])


@attrs.frozen(kw_only=True)
class Weight:
    """One tensor to write: from where, in which type, and what is done to it on the way.

    Rows are put in another order within groups of `rotated` rows, one for each head: those of the first and of the
    second half of the head alternate. Then `shift` is added to every number, and the sum multiplied with `scale`.
    """

    name: str
    numbers: Numbers
    dtype: GGMLQuantizationType
    rotated: int = 0
    shift: float = 0.0
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """As `numbers` has it."""
        return self.numbers.shape

    @property
    def size(self) -> int:
        """Bytes that are written."""
        return int(np.prod(self.shape, dtype=np.int64)) * ITEM[self.dtype]

    def blocks(self) -> Iterator[np.ndarray]:
        """What is written, some rows at a time. Raises `RunError` for a number that cannot be."""
        width = 4 * int(np.prod(self.shape[1:], dtype=np.int64))
        group = self.rotated or 1
        step = max(1, BLOCK // (width * group)) * group
        for first in range(0, self.shape[0], step):
            yield self._written(self.numbers.rows(first, min(first + step, self.shape[0])))

    def _written(self, rows: np.ndarray) -> np.ndarray:
        if not np.isfinite(rows).all():
            raise RunError(f"gguf: {self.name} holds NaN or infinite weights; the training has diverged")
        if self.rotated:
            halves = rows.reshape(-1, 2, self.rotated // 2, *rows.shape[1:])
            rows = halves.swapaxes(1, 2).reshape(rows.shape)
        if self.shift:
            rows = rows + np.float32(self.shift)
        if self.scale != 1.0:
            rows = rows * np.float32(self.scale)
        with np.errstate(over="ignore"):
            written: np.ndarray = np.ascontiguousarray(quantize(np.ascontiguousarray(rows), self.dtype))
        if self.dtype is GGMLQuantizationType.F16 and np.isinf(written).any():
            raise BeyondFloat16Error(
                f"gguf: {self.name} holds weights beyond 65504, which float16 cannot; write bf16 or f32"
            )
        return written


def read_tensors(folder: Path) -> Mapping[str, Stored]:
    """Every tensor of a model's folder by its name, in one file or in several. Nothing but headers is read.

    Raises `RunError` when there is none, one is damaged, or the index names another file or tensor.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise RunError(
                f"gguf: {folder} has no {SINGLE}; other forms of weights are not read, merge the model again"
            )
        return read_file(folder / SINGLE)
    places = _places(index)
    found = {name: stored for file in sorted(set(places.values())) for name, stored in read_file(folder / file).items()}
    for name, file in places.items():
        if name not in found or found[name].path.name != file:
            raise RunError(f"gguf: {folder / file} lacks {name}, which {INDEX} says is there; merge the model again")
    return found


def read_file(path: Path) -> Mapping[str, Stored]:
    """Every tensor of one safetensors file. Raises `RunError` when it is damaged or not there."""
    try:
        with safe_open(path, "numpy"):  # checks that header and length belong together
            pass
        header, begin = read_header(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"gguf: {path} cannot be read ({error}); merge the model again") from error
    header.pop("__metadata__", None)
    return {name: _stored(path, name, entry, begin) for name, entry in header.items()}


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> Stored:
    if entry["dtype"] not in STORED:
        raise RunError(f"gguf: {name} in {path} is {entry['dtype']}, no plain number; merge the model as float weights")
    shape = tuple(entry["shape"])
    return Stored(path=path, dtype=entry["dtype"], shape=shape, offset=start + entry["data_offsets"][0])


def _places(index: Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(index.read_text("utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"gguf: {index} cannot be read ({error}); merge the model again") from error
