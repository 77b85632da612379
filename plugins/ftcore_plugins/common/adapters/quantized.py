"""Layers whose weights bitsandbytes keeps in 4 or 8 bits. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

KINDS = {"Params4bit", "Int8Params"}
BASE_LAYER = ".base_layer"


def is_quantized(layer: Any) -> bool:
    """Whether the layer's own weight is kept in 4 or 8 bits."""
    return type(getattr(layer, "weight", None)).__name__ in KINDS


def quantized_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Quantized layers, by the names that they have without an adapter."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, module in inner.named_modules():
        # A wrapper of PEFT shows the weight of the layer inside of it as its own.
        if is_quantized(module) and not hasattr(module, "base_layer"):
            yield name.removesuffix(BASE_LAYER), module


def never_repack(model: Any) -> None:
    """Keep 4-bit layers on a CPU with AVX512-BF16 from repacking their weights for inference.

    They would do so at an evaluation, and go on with the packed ones, through which no gradient flows: training
    steps after it learn a little, and nothing says so.
    """
    for _, layer in quantized_layers(model):
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def dequantized(layer: Any) -> torch.Tensor:
    """The weight as the layer calculates with it, of shape (outputs, inputs); the layer is left as it is."""
    from bitsandbytes import functional

    weight = layer.weight
    if hasattr(weight, "quant_state"):
        whole: torch.Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        scales = weight.SCB if layer.state.SCB is None else layer.state.SCB  # they move at the first use
        whole = functional.int8_vectorwise_dequant(weight.data, scales)
    return whole.detach()


def quantize_again(layer: Any, weight: torch.Tensor) -> None:
    """Give a 4-bit layer another weight, of shape (outputs, inputs), quantized as the one before."""
    old = layer.weight
    layer.weight = type(old)(
        weight.to(old.quant_state.dtype).contiguous(),
        requires_grad=False,
        quant_type=old.quant_type,
        quant_storage=old.quant_storage,
        compress_statistics=old.compress_statistics,
        module=layer,
    ).to(old.device)


def kind_of(model: Any) -> str:
    """`nf4`, `fp4` or `int8`, as the model's layers are quantized; empty if none is."""
    found = next(quantized_layers(model), None)
    if found is None:
        return ""
    return str(getattr(found[1].weight, "quant_type", "int8"))


def weights_trained_on(model: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """The quantized weights that an adapter was trained on, by layer, as a saved adapter expects them: whole.

    Each is made, in float32 on the CPU, when it is called for. What a start from singular values took out of it is
    put back, since the saved adapter takes it out again.
    """
    starts, scales = getattr(model, "starts", None) or {}, _scales(model)

    def whole(name: str, layer: Any) -> torch.Tensor:
        weight = dequantized(layer).float().cpu()
        return weight + scales[name] * (starts[name].b @ starts[name].a) if name in starts else weight

    return {name: partial(whole, name, layer) for name, layer in quantized_layers(model)}


def _scales(model: Any) -> dict[str, float]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = ((name, getattr(module, "scaling", None)) for name, module in inner.named_modules())
    return {name: scaling["default"] for name, scaling in layers if isinstance(scaling, dict) and scaling}
