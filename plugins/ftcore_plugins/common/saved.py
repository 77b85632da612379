"""How the weights of a base model that is saved quantized lie in its files, and what they are once they are read.

Only its configuration is looked at, and a model that lies on the meta device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ftcore.api import Loaded, RunError, SavedAs

MADE_WHOLE = ("fp8", "mxfp4")
"""Made whole as they are read, also where a GPU could work with them: MXFP4 has no backward pass, and FP8 would be
trained with other arithmetic on one card than on the next."""

# Blocks of 64 weights share a scale, https://arxiv.org/abs/2305.14314 section 3: of 4 bytes, or, when quantized
# again, of one byte with 4 more for each 256 scales.
SCALE = 4 / 64
SCALE_AGAIN = 1 / 64 + 4 / (64 * 256)
TYPICAL_WIDTH = 3000
"""Inputs of a layer, over which 8-bit weights share a scale of 4 bytes; 700 or 100,000 are 0.5% off."""
GROUP = 128
"""Weights that share a scale where GPTQ and AWQ do not say how many."""
CUBE = 3


def four_bits(*, double: bool) -> float:
    """Bytes of a weight that bitsandbytes keeps in 4 bits, its scales quantized again or not."""
    return 0.5 + (SCALE_AGAIN if double else SCALE)


def eight_bits() -> float:
    """Bytes of a weight that bitsandbytes keeps in 8 bits."""
    return 1 + 4 / TYPICAL_WIDTH


def saved_as(config: Any, model: Any) -> SavedAs | None:
    """What the configuration says of it, for the layers of `model`; None for a base with whole weights."""
    table = _table(config)
    if table is None:
        return None
    kind = _kind(table)
    if kind in MADE_WHOLE:
        return SavedAs(kind=kind, whole=True)
    # Whether experts that lie in one tensor are quantized with the rest is different from library to library.
    size = None if _has_fused_experts(model) else _bytes(kind, table)
    return SavedAs(kind=kind, bytes_per_weight=size, left_out=() if size is None else _left_out(kind, table, model))


def require_whole(plugin: str, sketched: Loaded | None) -> Loaded | None:
    """Raise `RunError` for a sketched model whose weights stay quantized: `plugin` cannot share those out."""
    if sketched is None or sketched.saved is None or sketched.saved.whole:
        return sketched
    fault = f"{sketched.base} is saved quantized ({sketched.saved.kind}), and {plugin} cannot share out such weights"
    raise RunError(f"model.id: {fault}; leave out [plugin.{plugin}], or name the model with whole weights")


def kept_layers(model: Any, saved: SavedAs | None) -> list[str]:
    """Full names of the layers that stay quantized, as far as that is known; none without `saved`."""
    if saved is None or saved.whole or saved.is_unknown:
        return []
    from ftcore_plugins.common.adapters.layers import is_linear

    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if is_linear(module)}
    return [name for name, module in linear.items() if module is not head and name not in saved.left_out]


def read_whole(config: Any) -> Any:
    """The same configuration, with which FP8 and MXFP4 become whole as they are read."""
    table = _table(config)
    if table is None or _kind(table) not in MADE_WHOLE:
        return config
    config = copy.deepcopy(config)
    config.quantization_config = {**table, "dequantize": True}
    return config


def _table(config: Any) -> Mapping[str, Any] | None:
    table = getattr(config, "quantization_config", None)
    if table is None or isinstance(table, Mapping):
        return table
    return dict(table.to_dict())


def _kind(table: Mapping[str, Any]) -> str:
    if table.get("load_in_4bit") or table.get("_load_in_4bit"):
        return str(table.get("bnb_4bit_quant_type") or "fp4")
    if table.get("load_in_8bit") or table.get("_load_in_8bit"):
        return "int8"
    return str(table.get("quant_method") or "of an unknown kind")


def _bytes(kind: str, table: Mapping[str, Any]) -> float | None:
    """Bytes of a weight with its share of the scales; None where this is not known."""
    if kind in ("nf4", "fp4"):
        return four_bits(double=bool(table.get("bnb_4bit_use_double_quant")))
    if kind == "int8":
        return eight_bits()
    if kind not in ("gptq", "awq"):
        return None
    bits, group = _number(table, "bits", "w_bit") or 4, _number(table, "group_size", "q_group_size") or GROUP
    # A group has a scale of 16 bits and a zero point of as many bits as a weight; -1 is one group for each column.
    return bits / 8 + ((2 + bits / 8) / group if group > 0 else 0.0)


def _number(table: Mapping[str, Any], *names: str) -> int | None:
    return next((table[name] for name in names if isinstance(table.get(name), int) and table[name]), None)


def _left_out(kind: str, table: Mapping[str, Any], model: Any) -> tuple[str, ...]:
    """Full names of the layers that are not quantized, by the rules of transformers."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    from ftcore_plugins.common.adapters.layers import is_linear

    linear = [name for name, module in model.named_modules() if is_linear(module)]
    if kind == "gptq":
        inside = [str(name) for group in table.get("modules_in_block_to_quantize") or () for name in group]
        return tuple(name for name in linear if inside and not name.endswith(tuple(inside)))
    named = table.get("modules_to_not_convert" if kind == "awq" else "llm_int8_skip_modules")
    skipped = HfQuantizer.get_modules_to_not_convert(
        model, named, model._keep_in_fp32_modules, add_default_skips=kind == "awq"
    )
    return tuple(name for name in linear if not should_convert_module(name, skipped))


def _has_fused_experts(model: Any) -> bool:
    experts = (module for name, module in model.named_modules() if name.endswith(".experts"))
    return any(weight.dim() == CUBE for module in experts for weight in module.parameters(recurse=False))
