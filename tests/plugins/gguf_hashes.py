"""Writes gguf_hashes.json: the SHA-256 of what llama.cpp's own quantizer makes of the files of `gguf_random`.

    pip install llama-cpp-python && python tests/plugins/gguf_hashes.py

compiles llama.cpp (ten minutes of a CPU) and was last run with llama-cpp-python 0.3.36 on x86-64.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from gguf_random import CASES, FILE_TYPES, importance, named, random_gguf


class Entry(ctypes.Structure):
    """`llama_model_imatrix_data` of llama.h; an empty one ends a list."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


def quantized(source: Path, target: Path, file_type: int, weights: Mapping[str, np.ndarray]) -> bytes:
    from llama_cpp import llama_model_quantize, llama_model_quantize_default_params

    settings = llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, 1
    entries = (Entry * (len(weights) + 1))()
    for place, (name, values) in enumerate(weights.items()):
        entries[place] = Entry(name.encode(), values.ctypes.data, values.size)
    if weights:
        settings.imatrix = ctypes.cast(entries, type(settings.imatrix))
    if llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp does not quantize {source}")
    return target.read_bytes()


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            source = random_gguf(Path(folder, "source.gguf"), *case)
            for quantization, file_type in FILE_TYPES.items():
                for weights in ({}, importance(source)):
                    made = quantized(source, Path(folder, "made.gguf"), file_type, weights)
                    found[named(*case, quantization, bool(weights))] = hashlib.sha256(made).hexdigest()
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
