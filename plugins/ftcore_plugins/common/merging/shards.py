"""Writes safetensors files of any size in constant memory. Imports torch.

The libraries have a whole file in memory when they write it; the format itself is a header and then bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from huggingface_hub import split_torch_state_dict_into_shards

from ftcore.api import RunError
from ftcore_plugins.common.merging.source import INDEX
from ftcore_plugins.common.merging.stored import TYPES

NAMES = {dtype: name for name, dtype in TYPES.items()}


@attrs.frozen(kw_only=True)
class Planned:
    """A tensor that is going to be written; `pieces` makes it, in flat parts, when its turn has come."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[torch.Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a file."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def write_shards(folder: Path, tensors: Mapping[str, Planned], max_shard_size: str) -> None:
    """Write all tensors, in their order, into files of at most that size, with an index if there are several."""
    shapes = {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in tensors.items()}
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        _write(folder / file, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write(path: Path, tensors: Mapping[str, Planned]) -> None:
    # Wide types first, so that each tensor starts at a multiple of its own width, as other writers do it.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header = json.dumps(_header(ordered), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in ordered.items():
            _write_all(file, name, tensor.pieces())
        if file.tell() != 8 + len(header) + sum(tensor.nbytes for tensor in ordered.values()):
            raise RunError(f"{path.name} did not get the size that its tensors have; this is a fault of ftcore")


def _header(tensors: Mapping[str, Planned]) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    return header


def _write_all(file: Any, name: str, pieces: Iterable[torch.Tensor]) -> None:
    for piece in pieces:
        require_finite(name, piece)
        file.write(memoryview(piece.contiguous().view(-1).view(torch.uint8).numpy()))


def require_finite(name: str, tensor: torch.Tensor) -> None:
    """Raise `RunError` where one of the values is not a number, or infinite."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.dtype.itemsize == 1:
        return
    # Both ends say it of all values between them: what is not a number goes to both.
    if not all(bool(torch.isfinite(end)) for end in tensor.aminmax()):
        fix = "export an earlier checkpoint, or train again with a smaller learning rate"
        raise RunError(f"merge: {name} holds values that are infinite or not a number; {fix}")
