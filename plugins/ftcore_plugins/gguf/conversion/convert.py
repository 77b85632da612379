"""Writes a model from a complete Hugging Face folder as GGUF, without torch.

The tensors are byte-identical with those of llama.cpp's own converter, but that what is added to a Gemma's norms is
added in float32 even where they are float16, as transformers does. Architectures that the table lacks go through
that one (`external`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, RopeScalingType, TensorNameMap, get_tensor_name_map

from ftcore.api import RunError
from ftcore_plugins.gguf.conversion.architectures import (
    HEAD,
    Architecture,
    has_shape,
    is_of_vision,
    plain_name,
    shape_of,
    supports,
    tensor_names,
)
from ftcore_plugins.gguf.conversion.settings import Settings, period, read_settings
from ftcore_plugins.gguf.conversion.vision import convert_vision
from ftcore_plugins.gguf.conversion.vocabulary import write_vocabulary
from ftcore_plugins.gguf.conversion.weights import TYPES, Made, Stored, Weight, read_tensors
from ftcore_plugins.gguf.conversion.writing import describe, write_file

__all__ = ["convert", "convert_vision", "supports"]

Dtype = Literal["f32", "f16", "bf16"]

IGNORED = (".rotary_emb.inv_freq", ".attention.masked_bias")
"""Buffers that older versions of transformers saved, and that follow from the settings."""

COUNTS = {
    "num_hidden_layers": "add_block_count",
    "hidden_size": "add_embedding_length",
    "intermediate_size": "add_feed_forward_length",
    "num_attention_heads": "add_head_count",
    "num_key_value_heads": "add_head_count_kv",
    "rms_norm_eps": "add_layer_norm_rms_eps",
    "head_dim": "add_key_length",
}
CAPS = {
    "attn_logit_softcapping": "add_attn_logit_softcapping",
    "final_logit_softcapping": "add_final_logit_softcapping",
}
YARN = {
    "original_max_position_embeddings": "add_rope_scaling_orig_ctx_len",
    "extrapolation_factor": "add_rope_scaling_yarn_ext_factor",
    "beta_fast": "add_rope_scaling_yarn_beta_fast",
    "beta_slow": "add_rope_scaling_yarn_beta_slow",
}


def convert(merged: Path, target: Path, dtype: Dtype) -> None:
    """Write the language model in `merged` to the file `target`; matrices in `dtype`, vectors in float32.

    Raises `RunError` where the folder is incomplete or damaged, the runtime would calculate something else, or
    `target` cannot be written. Then there is no `target`, and an older one is as it was.
    """
    settings = read_settings(merged)
    weights = list(text_weights(settings, read_tensors(merged), dtype))
    rows = next(weight.shape[0] for weight in weights if weight.name == "token_embd.weight")
    writer = GGUFWriter(None, settings.architecture.name)
    writer.add_type(GGUFType.MODEL)
    describe(writer, merged, weights, dtype)
    write_settings(writer, settings, rows)
    write_vocabulary(writer, merged, rows)
    write_file(target, writer, weights)


def text_weights(settings: Settings, tensors: Mapping[str, Stored], dtype: Dtype) -> Iterator[Weight]:
    """Every tensor of the file. Raises `RunError` where one is missing or nothing knows what it is for."""
    found = {plain_name(name): stored for name, stored in tensors.items() if not is_of_vision(name)}
    wanted = list(tensor_names(settings.architecture, settings.values))
    _require_same(wanted, [name for name in found if not name.endswith(IGNORED)], settings)
    factors = rope_factors(settings)
    if factors is not None:
        yield Weight(name="rope_freqs.weight", numbers=Made(factors), dtype=TYPES["f32"])
    names = tensor_map(settings)
    for name in wanted:
        yield _weight(name, found[name], settings, names, dtype)


def tensor_map(settings: Settings) -> TensorNameMap:
    """From transformers' names to those of the architecture in a GGUF."""
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == settings.architecture.name)
    return get_tensor_name_map(MODEL_ARCH(kind), settings.values["num_hidden_layers"])


def mapped(name: str, names: TensorNameMap) -> str:
    """A tensor's name in the file."""
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise RunError(f"gguf: {name} has no name in the installed version of gguf; run: pip install --upgrade gguf")
    return str(found)


def rotated(name: str, settings: Settings) -> int:
    """Rows of one head where those of a tensor are put in another order, else 0."""
    return settings.head_dim if settings.architecture.permuted and (".q_proj." in name or ".k_proj." in name) else 0


def scale(name: str, settings: Settings) -> float:
    """What a tensor is multiplied with, so that the runtime's attention is that of the model."""
    there = settings.architecture.scaled and name.endswith(settings.architecture.scaled)
    return settings.attention_factor if there else 1.0


def _weight(name: str, stored: Stored, settings: Settings, names: TensorNameMap, dtype: Dtype) -> Weight:
    wanted = shape_of(name, settings.values)
    if not has_shape(stored.shape, wanted) or not all(stored.shape):
        found, said = (" x ".join("any" if n is None else str(n) for n in shape) for shape in (stored.shape, wanted))
        raise RunError(f"gguf: {name} is {found}, not {said}; config.json is of another model")
    return Weight(
        name=mapped(name, names),
        numbers=stored,
        dtype=TYPES["f32" if len(stored.shape) == 1 else dtype],
        rotated=rotated(name, settings),
        shift=settings.architecture.norm_shift if name.endswith("norm.weight") else 0.0,
        scale=scale(name, settings),
    )


def _require_same(wanted: Sequence[str], found: Sequence[str], settings: Settings) -> None:
    there, known = set(found), {*wanted, HEAD}
    missing = [name for name in wanted if name not in there]
    if missing:
        raise RunError(f"gguf: the model has no {missing[0]}{_more(missing)}; config.json is of another model")
    # A head beside tied words is what older tools saved twice; transformers does not read it either.
    unknown = [name for name in found if name not in known]
    if unknown:
        kind = settings.architecture.name
        raise RunError(f"gguf: {unknown[0]}{_more(unknown)} is no part of a {kind}; merge the model without it")


def _more(names: Sequence[str]) -> str:
    return f" (nor {len(names) - 1} more)" if len(names) > 1 else ""


def rope_factors(settings: Settings) -> np.ndarray | None:
    """By how much each frequency is divided where `rope_type` is llama3 [head_dim / 2], else None.

    As in `_compute_llama3_parameters` of transformers, in float32.
    """
    if settings.rope.kind != "llama3":
        return None
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **settings.rope.scaling}
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    steps = np.arange(0, settings.head_dim, 2, dtype=np.float32) / np.float32(settings.head_dim)
    waves = 2 * np.pi * np.float32(settings.rope.theta) ** steps
    turns = scaling.get("original_max_position_embeddings", 8192) / waves
    smooth = (turns - low) / (high - low)
    between = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    factors: np.ndarray = np.where(turns > high, 1.0, np.where(turns < low, scaling["factor"], between))
    return factors.astype(np.float32)


def write_settings(writer: GGUFWriter, settings: Settings, rows: int) -> None:
    """Shape, rotary embeddings, caps and windows of the language model."""
    values = settings.values
    for name, add in {**COUNTS, **CAPS}.items():
        if values.get(name) is not None:
            getattr(writer, add)(values[name])
    writer.add_value_length(settings.head_dim)
    writer.add_context_length(settings.context)
    writer.add_vocab_size(rows)
    _write_rope(writer, settings)
    _write_windows(writer, settings.architecture, settings)


def _write_rope(writer: GGUFWriter, settings: Settings) -> None:
    rope = settings.rope
    writer.add_rope_dimension_count(settings.head_dim)
    writer.add_rope_freq_base(rope.theta)
    if rope.local_theta is not None and settings.architecture.period:
        writer.add_rope_freq_base_swa(rope.local_theta)
    if rope.kind not in ("linear", "yarn"):
        return
    writer.add_rope_scaling_type(RopeScalingType(rope.kind))
    writer.add_rope_scaling_factor(rope.scaling["factor"])
    if rope.kind == "yarn":
        _write_yarn(
            writer, {"original_max_position_embeddings": settings.values["max_position_embeddings"], **rope.scaling}
        )


def _write_yarn(writer: GGUFWriter, scaling: Mapping[str, float | None]) -> None:
    for name, add in YARN.items():
        if scaling.get(name) is not None:
            getattr(writer, add)(scaling[name])
    own, usual = attention_factors(scaling)
    if own != usual:  # the runtime multiplies what is written with the usual one
        writer.add_rope_scaling_attn_factors(own / usual)


def attention_factors(scaling: Mapping[str, Any]) -> tuple[float, float]:
    """By what YaRN multiplies queries and keys with these settings, and where nothing is said about it.

    As in `_compute_yarn_parameters` of transformers, after https://arxiv.org/abs/2309.00071.
    """
    growth = 0.1 * math.log(scaling["factor"])
    given, first, second = (scaling.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    ratio = (growth * first + 1.0) / (growth * second + 1.0) if first and second else growth + 1.0
    return float(ratio if given is None else given), growth + 1.0


def _write_windows(writer: GGUFWriter, architecture: Architecture, settings: Settings) -> None:
    if architecture.period and period(settings) > 1:
        writer.add_sliding_window(settings.values["sliding_window"])
        if period(settings) != architecture.period:
            writer.add_sliding_window_pattern(period(settings))
