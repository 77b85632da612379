"""An importance matrix: how strongly each column of a weight is used, from training rows. Imports torch.

As llama.cpp's own tool does it (tools/imatrix): the mean of the squares of what every column is multiplied with. The
quantizer then spends its error where little passes. The tuned model in memory is asked, adapters and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, TensorNameMap, get_tensor_name_map

from ftcore.api import Example, PreparedData, RunError
from ftcore_plugins.common.evaluation import evaluating
from ftcore_plugins.gguf.conversion.architectures import plain_name
from ftcore_plugins.gguf.quantization.quantize import Importance

WRAPPERS = ("base_layer", "original_module", "modules_to_save.default")
"""Of PEFT: what a layer is inside of."""


@attrs.define
class Squares:
    """Sums of squares of one layer's inputs [columns], and over how many tokens."""

    sums: Any = 0.0
    tokens: int = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Count every token of a batch."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).double()
        self.sums = self.sums + rows.square().sum(0).cpu()
        self.tokens += len(rows)

    @property
    def mean(self) -> np.ndarray:
        """In float32, as llama.cpp keeps it."""
        mean: np.ndarray = np.asarray(self.sums / self.tokens, np.float32)
        return mean


def importance(source: Path, model: Any, data: PreparedData, *, rows: int) -> Importance:
    """The mean squares for each matrix of the GGUF `source` that a linear layer of `model` multiplies with.

    Embeddings and the output layer have none, as in llama.cpp, nor have experts that a model fuses. `rows` are spread
    over the training rows. Raises `RunError` when no layer of the model is found in the file.
    """
    reader = GGUFReader(source)
    there = {tensor.name for tensor in reader.tensors if tensor.name.startswith("blk.")}
    names = _names(reader)
    layers = {name: module for path, module in _linear(model) if (name := _mapped(path, names)) in there}
    if not layers:
        raise RunError("plugin.gguf.imatrix: no layer of this model is known by its name; leave it out")
    found = {name: Squares() for name in layers}
    with _listening(layers, found), evaluating(model), torch.no_grad():
        for example in _spread(data.train, rows):
            model(**_inputs(model, data, example))
    return {name: squares.mean for name, squares in found.items() if squares.tokens}


def _names(reader: GGUFReader) -> TensorNameMap:
    architecture = reader.fields["general.architecture"].contents()
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    return get_tensor_name_map(MODEL_ARCH(kind), int(reader.fields[f"{architecture}.block_count"].contents()))


def _linear(model: Any) -> Iterator[tuple[str, Any]]:
    """Every matrix layer, quantized ones too, by the name that it has without an adapter."""
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or isinstance(module, torch.nn.Embedding) or not hasattr(module, "in_features"):
            continue
        if ".lora_" not in path and not hasattr(module, "base_layer"):
            yield _unwrapped(path), module


def _unwrapped(path: str) -> str:
    for wrapper in WRAPPERS:
        path = path.removesuffix(f".{wrapper}")
    return path.removeprefix("base_model.model.")


def _mapped(path: str, names: TensorNameMap) -> str:
    return str(names.get_name(plain_name(f"{path}.weight"), try_suffixes=(".weight",)))


@contextmanager
def _listening(layers: Mapping[str, Any], found: Mapping[str, Squares]) -> Iterator[None]:
    hooks = [module.register_forward_pre_hook(_hook(found[name])) for name, module in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(squares: Squares) -> Callable[[Any, tuple[Any, ...]], None]:
    return lambda _, inputs: squares.add(inputs[0])


def _spread(examples: Sequence[Example], count: int) -> Iterator[Example]:
    count = min(count, len(examples))
    return (examples[number * len(examples) // count] for number in range(count))


def _inputs(model: Any, data: PreparedData, example: Example) -> dict[str, Any]:
    batch = {name: value for name, value in data.collate([example]).items() if name != "labels"}
    return {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
