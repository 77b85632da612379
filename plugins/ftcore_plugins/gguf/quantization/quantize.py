"""From a GGUF of whole weights to a quantized one, tensor by tensor, with llama.cpp's own code.

The numbers are those of `ggml_quantize_chunk` in the library that xllamacpp brings, and the choice of types is
llama.cpp's: the file is the one that llama.cpp's quantizer writes, byte by byte. Rounding in that code depends on the
processor's family (x86-64 or ARM), as it does in llama.cpp.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

from ftcore.api import RunError
from ftcore_plugins.gguf.files import written
from ftcore_plugins.gguf.quantization.mixture import FILE_TYPES, Shape, Tensor, place, types

QUANTIZATION_VERSION = 2
REPLACED = ("general.quantization_version", "general.file_type")
UINT32 = 4
SLAB = 1 << 22
"""Weights that are quantized at once: 16 MiB in float32, for each thread."""

SUFFIXES = (".so", ".pyd", ".dylib")

Importance = Mapping[str, np.ndarray]
"""For each tensor that has them, the mean squares of what its columns are multiplied with."""


@attrs.frozen
class Source:
    """A GGUF with whole weights: its metadata as bytes, and its tensors as memory-mapped arrays."""

    reader: GGUFReader

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, as the mixture looks at them."""
        return [_described(tensor) for tensor in self.reader.tensors]

    @property
    def shape(self) -> Shape:
        """What the mixture depends on."""
        heads = self.value("attention.head_count")
        return Shape(
            architecture=str(self.reader.fields["general.architecture"].contents()),
            layers=int(self.value("block_count") or 0),
            experts=int(self.value("expert_count") or 0),
            shared_heads=heads != (self.value("attention.head_count_kv") or heads),
        )

    def value(self, key: str) -> Any:
        """What the metadata says under the architecture's name, or None."""
        field = self.reader.fields.get(f"{self.reader.fields['general.architecture'].contents()}.{key}")
        return field.contents() if field else None

    def metadata(self) -> Iterator[bytes]:
        """Every entry but those that quantizing replaces, as it is in the file."""
        for name, field in self.reader.fields.items():
            if not name.startswith("GGUF.") and name not in REPLACED:
                size = sum(int(part.nbytes) for part in field.parts)
                yield self.reader.data[field.offset : field.offset + size].tobytes()


def quantize(source: Path, target: Path, quantization: str, importance: Importance | None = None) -> None:
    """Write `target` from `source`, an f32, f16 or bf16 GGUF. `quantization` is one of `mixture.MOST`.

    Raises `RunError` when a weight is not a finite number, or the disk is full.
    """
    opened = Source(GGUFReader(source))
    chosen = types(quantization, opened.tensors, opened.shape)
    with written(target) as partial, partial.open("wb") as file:
        _write_head(file, opened, chosen, quantization)
        with ThreadPoolExecutor(_threads()) as pool:
            write = _Writer(file, pool, _threads(), _quantize_chunk(), int(opened.reader.alignment))
            for tensor in sorted(opened.reader.tensors, key=lambda each: place(each.name)):
                write.tensor(tensor, chosen[tensor.name], (importance or {}).get(tensor.name))


def _described(tensor: Any) -> Tensor:
    return Tensor(name=tensor.name, dimensions=tuple(int(size) for size in tensor.shape), type=tensor.tensor_type)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _write_head(file: BinaryIO, source: Source, chosen: Mapping[str, GGMLQuantizationType], quantization: str) -> None:
    """Magic, metadata, and where each tensor will be. Numbers are little-endian, as in every GGUF that is read here."""
    tensors = sorted(source.tensors, key=lambda tensor: place(tensor.name))
    entries = [*source.metadata(), *_new_entries(quantization)]
    alignment, offset = int(source.reader.alignment), 0
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries)))
    file.writelines(entries)
    for tensor in tensors:
        name, sizes, wanted = tensor.name.encode(), tensor.dimensions, chosen[tensor.name]
        file.write(_string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, wanted, offset))
        offset += _padded(_bytes(tensor.dimensions, wanted), alignment)
    file.write(bytes(-file.tell() % alignment))


def _new_entries(quantization: str) -> list[bytes]:
    values = (QUANTIZATION_VERSION, FILE_TYPES[quantization])
    return [
        _string(key.encode()) + struct.pack("<II", UINT32, value) for key, value in zip(REPLACED, values, strict=True)
    ]


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _bytes(dimensions: tuple[int, ...], wanted: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[wanted]
    return int(np.prod(dimensions, dtype=np.int64)) // block * size


def _padded(size: int, alignment: int) -> int:
    return size + -size % alignment


@attrs.frozen
class _Writer:
    """Writes tensors one after the other."""

    file: BinaryIO
    pool: ThreadPoolExecutor
    threads: int
    chunk: Callable[..., int]
    alignment: int

    def tensor(self, tensor: Any, wanted: GGMLQuantizationType, importance: np.ndarray | None) -> None:
        """Write one, quantized if its type is another, and what fills up to the next."""
        if wanted == tensor.tensor_type:
            self.file.write(tensor.data)
        else:
            self._quantized(tensor, wanted, importance)
        size = _bytes(tuple(int(each) for each in tensor.shape), wanted)
        self.file.write(bytes(_padded(size, self.alignment) - size))

    def _quantized(self, tensor: Any, wanted: GGMLQuantizationType, importance: np.ndarray | None) -> None:
        width = int(tensor.shape[0])
        matrices = tensor.data.reshape(-1, int(tensor.shape[1]), tensor.data.shape[-1])
        weights = _for_each(importance, len(matrices), width, tensor.name)
        step = max(1, SLAB // width)
        for matrix, columns in zip(matrices, weights, strict=True):
            slabs = [matrix[start : start + step] for start in range(0, len(matrix), step)]
            for start in range(0, len(slabs), self.threads):  # no more than these in memory at once
                work = slabs[start : start + self.threads]
                self.file.writelines(self.pool.map(lambda rows: self._rows(tensor, rows, wanted, columns), work))  # noqa: B023

    def _rows(self, tensor: Any, rows: np.ndarray, wanted: GGMLQuantizationType, columns: np.ndarray | None) -> bytes:
        weights = np.ascontiguousarray(_whole(rows, tensor.tensor_type))
        if not np.isfinite(weights).all():
            raise RunError(f"{tensor.name} has weights that are no finite numbers; the tuned model is damaged")
        quantized = ctypes.create_string_buffer(_bytes(weights.shape, wanted))
        pointer = columns.ctypes.data if columns is not None else None
        self.chunk(int(wanted), weights.ctypes.data, ctypes.addressof(quantized), 0, *weights.shape, pointer)
        return quantized.raw


def _for_each(importance: np.ndarray | None, matrices: int, width: int, name: str) -> list[np.ndarray | None]:
    """The importance of the columns of each matrix (of each expert)."""
    if importance is None:
        return [None] * matrices
    if importance.size not in (width, matrices * width):
        raise RunError(f"the importance matrix has {importance.size} columns for {name}, which has {width}")
    rows = np.broadcast_to(importance.reshape(-1, width), (matrices, width))
    return [np.ascontiguousarray(row, np.float32) for row in rows]


def _whole(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    if kind == GGMLQuantizationType.BF16:  # as bytes, since numpy does not know it
        rows = (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    whole: np.ndarray = rows.astype(np.float32, copy=False)
    return whole


def _quantize_chunk() -> Callable[..., int]:
    """`size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix)` of xllamacpp's library."""
    folders = (spec := find_spec("xllamacpp")) and spec.submodule_search_locations
    library = next(
        path for folder in folders or [] for path in Path(folder).glob("xllamacpp*") if path.suffix in SUFFIXES
    )
    function = ctypes.CDLL(str(library)).ggml_quantize_chunk
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    function.restype = ctypes.c_size_t
    return function
