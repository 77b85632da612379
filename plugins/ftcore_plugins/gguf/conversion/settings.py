"""From a model's configuration, in transformers' older or newer spelling, to what llama.cpp's runtime reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import RunError
from ftcore_plugins.gguf.conversion.architectures import TABLE, Architecture, name_of

CAPS = ("attn_logit_softcapping", "final_logit_softcapping")

REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
)


@attrs.frozen(kw_only=True)
class Rope:
    """Rotary embeddings: their base, that of layers that look back only a window, and how they are scaled."""

    theta: float
    local_theta: float | None
    kind: str
    scaling: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Settings:
    """What is written about a language model. `values` are transformers' settings, completed."""

    architecture: Architecture
    values: Mapping[str, Any]
    rope: Rope

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return int(self.values["head_dim"])

    @property
    def context(self) -> int:
        """Tokens that the model can read in the runtime as it does in transformers.

        The runtime has no sliding window for these architectures but Gemma; up to its length there is no difference.
        """
        longest = int(self.values["max_position_embeddings"])
        window = self.values.get("sliding_window")
        if self.architecture.period or not window or self.values.get("use_sliding_window") is False:
            return longest
        return min(longest, int(window))

    @property
    def attention_factor(self) -> float:
        """By how much queries must be longer than the runtime takes them to be."""
        scalar = self.values.get("query_pre_attn_scalar")
        if not self.architecture.scaled or scalar is None:
            return 1.0
        heads = self.values["num_attention_heads"]
        large = self.values["num_hidden_layers"] == self.architecture.largest
        divisor = self.values["hidden_size"] // heads if large else self.head_dim
        return 1.0 if divisor == scalar else float((divisor / scalar) ** 0.5)


def read_config(folder: Path) -> Mapping[str, Any]:
    """`config.json` of a model's folder. Raises `RunError` when it is not there or damaged."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"gguf: {path} cannot be read ({error}); merge the model again") from error
    if not isinstance(found, dict):
        raise RunError(f"gguf: {path} holds no object; merge the model again")
    return found


def read_settings(folder: Path) -> Settings:
    """Settings of the language model in a folder. Raises `RunError` where the runtime would do something else."""
    config = read_config(folder)
    architecture = TABLE.get(name_of(config))
    if architecture is None:
        raise RunError(f"gguf: {name_of(config) or 'a model without a name'} is none of {', '.join(TABLE)}")
    values = _values(architecture, config)
    missing = [name for name in REQUIRED if values.get(name) is None]
    if missing:
        raise RunError(f"gguf: {folder / 'config.json'} lacks {', '.join(missing)}; merge the model again")
    settings = Settings(architecture=architecture, values=values, rope=_rope(values))
    fault = _fault(settings)
    if fault:
        raise RunError(
            f"gguf: llama.cpp's {architecture.name} {fault}, unlike this model; it cannot be written as GGUF"
        )
    return settings


def _values(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    own = config.get("text_config") or {}
    # A cap of nothing is none at all; any other setting of nothing is one that was left out.
    given = {name: value for name, value in {**config, **own}.items() if value is not None or name in CAPS}
    values = {"tie_word_embeddings": False, **architecture.defaults, **given}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    if "hidden_size" in values and "num_attention_heads" in values:
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    return values


def _rope(values: Mapping[str, Any]) -> Rope:
    new = values.get("rope_parameters") or {}
    whole, local = (new.get(kind, {}) for kind in ("full_attention", "sliding_attention"))
    scaling = whole or ({} if local else new) or values.get("rope_scaling") or {}
    return Rope(
        theta=scaling.get("rope_theta", values.get("rope_theta", 10000.0)),
        local_theta=local.get("rope_theta", values.get("rope_local_base_freq")),
        kind=str(scaling.get("rope_type", scaling.get("type", "default"))),
        scaling=scaling,
    )


def _fault(settings: Settings) -> str:
    values, architecture, rope = settings.values, settings.architecture, settings.rope
    activation = values.get("hidden_activation", values.get("hidden_act", architecture.activation))
    rotated = rope.scaling.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))
    biases = [name for name in ("attention_bias", "mlp_bias") if values.get(name) and name not in architecture.biases]
    capped = [name for name in CAPS if values.get(name) is not None]
    # The runtime's Gemma 2 does not start without a layer that looks back a window only.
    windows = not architecture.period or period(settings) > (1 if architecture.capped else 0)
    faults = {
        f"has no activation {activation}": activation != architecture.activation,
        f"has no rope scaling {rope.kind}": rope.kind not in ("default", *architecture.rope_scaling),
        "rotates whole heads": rotated != 1.0,
        f"has no {' and '.join(biases)}": bool(biases),
        "has no head beside its words": not (architecture.own_head or values["tie_word_embeddings"]),
        "does not look ahead": bool(values.get("use_bidirectional_attention")),
        "always caps attention and logits": architecture.capped and len(capped) < len(CAPS),
        f"has no {CAPS[0]}": not architecture.capped and CAPS[0] in capped,
        "has its sliding windows in other layers": not windows,
    }
    return next((fault for fault, there in faults.items() if there), "")


def period(settings: Settings) -> int:
    """Every how many layers one sees the whole text; 0 where there is no such order."""
    kinds = settings.values.get("layer_types")
    if not kinds:
        named = (settings.values.get(name) for name in ("sliding_window_pattern", "_sliding_window_pattern"))
        return next((int(value) for value in named if value), settings.architecture.period)
    whole = [kind == "full_attention" for kind in kinds]
    tried = (settings.architecture.period, *range(1, len(kinds) + 2))
    return next((n for n in tried if whole == [number % n == 0 for number in range(1, len(kinds) + 1)]), 0)
