"""A GGUF from its settings and its weights, which are read while they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import yaml
from gguf import GGML_QUANT_VERSION, GGUF_DEFAULT_ALIGNMENT, GGUFWriter, Metadata, size_label

from ftcore.api import RunError
from ftcore_plugins.common.quiet import quiet_logger
from ftcore_plugins.gguf.conversion.weights import Weight
from ftcore_plugins.gguf.files import written
from ftcore_plugins.gguf.quantization.mixture import FILE_TYPES


def write_file(target: Path, writer: GGUFWriter, weights: Sequence[Weight]) -> None:
    """Write `target`, whole or not at all. `writer` has the settings; weights are read only now."""
    for weight in weights:
        # Bytes of bfloat16 are told apart from numbers by the type alone, so that the shape stays that of the weights.
        writer.add_tensor_info(weight.name, weight.shape, np.dtype(np.float32), weight.size, raw_dtype=weight.dtype)
    with written(target) as partial:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with partial.open("ab") as file:
            _pad(file)
            for weight in weights:
                for block in weight.blocks():
                    file.write(block.data)
                _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))


def describe(writer: GGUFWriter, folder: Path, weights: Sequence[Weight], dtype: str) -> None:
    """Who made the model, from what, under which licence, as the card in its folder says; and the type of weights."""
    total = sum(_count(weight) for weight in weights)
    try:
        with quiet_logger("gguf"):
            found = Metadata.load(model_path=folder, total_params=total)
    except (yaml.YAMLError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise RunError(f"gguf: the front matter of {folder / 'README.md'} cannot be read ({why})") from error
    found.name = title(folder) or found.name
    if found.basename == folder.name:  # guessed from the name of a folder that is called merged
        found.basename = None
    found.size_label = found.size_label or size_label(total, total, 0, 0)
    found.set_gguf_meta_model(writer)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def title(folder: Path) -> str:
    """The first heading of the card in a model's folder, or nothing."""
    card = folder / "README.md"
    lines = card.read_text("utf-8").splitlines() if card.is_file() else []
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def _count(weight: Weight) -> int:
    count = 1
    for length in weight.shape:
        count *= length
    return count
