"""The stacks of a model's equal layers, by its configuration and the names of its modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ftcore.errors import RunError
from ftcore.planning.facts import Part, Tower

_VISION = re.compile(r"(^|\.)(vision|visual|image)\w*(\.|$)")
_PROJECTOR = re.compile(r"(^|\.)\w*(projector|merger|connector)\w*(\.|$)")
CUBE = 3
"""Dimensions of a tensor that holds all experts of a layer."""


class NotPlannedError(RunError):
    """A model of a kind that plans do not know, which may be trained all the same."""


def part_of(name: str) -> Part:
    """Where in the model a module of this name lies."""
    if _PROJECTOR.search(name):
        return Part.PROJECTOR
    return Part.VISION if _VISION.search(name) else Part.TEXT


def text_config(config: Any) -> Any:
    """The configuration of the language model alone."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def tower_of(config: Any, modules: Mapping[str, Any], *, vision: bool) -> Tower:
    """The stack that a configuration describes. Raises `NotPlannedError` where it says too little."""
    width, heads = _number(config, "hidden_size", "n_embd", "d_model"), _number(config, "num_attention_heads", "n_head")
    blocks = _number(config, "num_hidden_layers", "n_layer", "depth")
    size = getattr(config, "head_dim", None) or width // heads
    own = {name: module for name, module in modules.items() if (part_of(name) is not Part.TEXT) is vision}
    in_block = {name: module for name, module in own.items() if ".0." in name}
    ends = {name.rpartition(".")[2] for name in in_block}
    norms = [name for name, module in in_block.items() if "norm" in type(module).__name__.lower()]
    return Tower(
        width=width,
        inner=_inner(config, width),
        blocks=blocks,
        heads=heads,
        queries=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        norms=len([name for name in norms if _normed_width(in_block[name]) in (0, width)]) or 2,
        head_norms=any(name.rpartition(".")[2] in ("q_norm", "k_norm") for name in norms),
        gated="gate_proj" in ends or "gate_up_proj" in ends or "experts" in ends,
        experts=0.0 if vision else routed(config) * _fused(modules) / max(1, blocks),
    )


def _inner(config: Any, width: int) -> int:
    """Width of the feed-forward network, or of all experts that one token goes through."""
    whole = _number(config, "intermediate_size", "n_inner", "ffn_dim", otherwise=4 * width)
    if routed(config) == 1:
        return whole
    one = _number(config, "moe_intermediate_size", otherwise=whole)
    return one * (_number(config, "num_experts_per_tok") + _number(config, "n_shared_experts", otherwise=0))


def routed(config: Any) -> float:
    """Share of the experts that a token goes through; 1 without experts."""
    chosen = _number(config, "num_experts_per_tok", otherwise=0)
    there = _number(config, "num_local_experts", "num_experts", "n_routed_experts", otherwise=0)
    return min(1.0, chosen / there) if chosen and there else 1.0


def _fused(modules: Mapping[str, Any]) -> int:
    """Weights of experts that lie in one tensor for all of a layer."""
    found = [module for name, module in modules.items() if name.endswith(".experts")]
    return sum(item.numel() for module in found for item in module.parameters() if len(item.shape) == CUBE)


def _normed_width(module: Any) -> int:
    weight = getattr(module, "weight", None)
    return 0 if weight is None else int(weight.shape[0])


def _number(config: Any, *names: str, otherwise: int | None = None) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    if otherwise is not None:
        return otherwise
    kind = getattr(config, "model_type", type(config).__name__)
    raise NotPlannedError(f"the configuration of this model ({kind}) has no {names[0]}, so its memory is not planned")


def picture(config: Any) -> tuple[int, int]:
    """Tokens that the language model gets from one picture, and patches that the vision tower sees of it."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0, 0
    side, patch = getattr(vision, "image_size", 0) or 0, getattr(vision, "patch_size", 0) or 0
    patches = (side // patch) ** 2 if side and patch else 0
    tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None) or patches
    return int(tokens), patches
