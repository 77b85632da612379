"""Tensors in safetensors files, read piece by piece. Imports torch.

`safe_open` maps a file: the pages that it has touched count as memory of the process until the file is closed, and a
file holds gigabytes. Here, bytes are read where the header says that they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open

from ftcore.api import RunError
from ftcore_plugins.common.model_folder import read_header

PIECE = 8 * 2**20
"""Bytes that are in memory at once of a tensor that is only copied."""

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the format calls them, https://github.com/huggingface/safetensors#format."""

WHOLE = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
"""Types of weights that are not quantized, and may be written in another of these types."""


@attrs.frozen(kw_only=True)
class Stored:
    """A tensor in a file: its bytes start at `start`."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Values in it."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[torch.Tensor]:
        """All values in order, in flat parts of at most `PIECE` bytes."""
        yield from self._parts(PIECE // self.dtype.itemsize)

    def read(self) -> torch.Tensor:
        """The whole tensor."""
        if not self.count:
            return torch.empty(self.shape, dtype=self.dtype)
        return next(self._parts(self.count)).reshape(self.shape)

    def _parts(self, most: int) -> Iterator[torch.Tensor]:
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            for first in range(0, self.count, most):
                part = torch.empty(min(most, self.count - first), dtype=self.dtype)
                self._fill(file, memoryview(part.view(torch.uint8).numpy()))
                yield part

    def _fill(self, file: Any, room: memoryview) -> None:
        while room:  # one read gives at most 2 GB
            count = file.readinto(room)
            if not count:
                raise RunError(f"{self.path} ended while it was read; something else writes to it")
            room = room[count:]


def stored_in(paths: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of the files, by name. Raises `RunError` for a file that is damaged or not there."""
    return {name: stored for path in paths for name, stored in _tensors(path)}


def _tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        with safe_open(path, "pt"):  # it looks whether header and length of the file agree
            pass
        header, begin = read_header(path)
    except FileNotFoundError:
        raise RunError(f"{path} is not there; it holds weights that are needed, put it back") from None
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}; take a whole copy of it") from None
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, _stored(path, name, entry, begin)


def _stored(path: Path, name: str, entry: dict[str, Any], base: int) -> Stored:
    if entry["dtype"] not in TYPES:
        raise RunError(f"{path} has {name} in {entry['dtype']}, which cannot be merged; take another base model")
    start, shape = base + entry["data_offsets"][0], tuple(entry["shape"])
    return Stored(path=path, start=start, shape=shape, dtype=TYPES[entry["dtype"]])
