"""What there is to know about each architecture that is written without llama.cpp's own converter.

Names on the left are Hugging Face's, of configurations and of tensors; the rest follows what llama.cpp's runtime
does with a file of that architecture (its `src/models`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

ATTENTION = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
QKV_BIASES = tuple(f"self_attn.{part}_proj.bias" for part in "qkv")
FEED_FORWARD = tuple(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
FEED_FORWARD_BIASES = tuple(f"mlp.{part}_proj.bias" for part in ("gate", "up", "down"))
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
FOUR_NORMS = (*NORMS, "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")

EMBEDDING, LAST_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@attrs.frozen(kw_only=True)
class Architecture:
    """How one architecture is written.

    `permuted`: the runtime rotates neighbours, so that rows of q and k are put in that order. `norm_shift` is what
    the model adds to its norms' weights, and the runtime does not. `biases` maps a setting that gives a model biases
    to those that the runtime then applies. `largest` is the number of layers from which on the runtime divides
    attention by the root of `hidden_size / heads` and no longer of `head_dim`.
    """

    name: str
    layer: Sequence[str]
    activation: str = "silu"
    permuted: bool = False
    norm_shift: float = 0.0
    own_head: bool = True
    biases: Mapping[str, Sequence[str]] = {}
    rope_scaling: Sequence[str] = ("linear", "yarn")
    capped: bool = False
    period: int = 0
    scaled: str = ""
    largest: int = 0
    defaults: Mapping[str, Any] = {}


LLAMA = Architecture(
    name="llama",
    layer=(*ATTENTION, *FEED_FORWARD, *NORMS),
    permuted=True,
    biases={"attention_bias": (*QKV_BIASES, "self_attn.o_proj.bias"), "mlp_bias": FEED_FORWARD_BIASES},
    rope_scaling=("linear", "yarn", "llama3"),
)

QWEN2 = Architecture(
    name="qwen2",
    layer=(*ATTENTION, *QKV_BIASES, *FEED_FORWARD, *NORMS),
    defaults={"use_sliding_window": False},
)

QWEN3 = Architecture(
    name="qwen3",
    layer=(*ATTENTION, *FEED_FORWARD, *NORMS, *QK_NORMS),
    defaults={"use_sliding_window": False, "head_dim": 128},
)

GEMMA2 = Architecture(
    name="gemma2",
    layer=(*ATTENTION, *FEED_FORWARD, *FOUR_NORMS),
    activation="gelu_pytorch_tanh",
    norm_shift=1.0,
    own_head=False,
    capped=True,
    period=2,
    scaled="self_attn.q_proj.weight",
    largest=46,
    defaults={
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
)

GEMMA3 = Architecture(
    name="gemma3",
    layer=(*ATTENTION, *FEED_FORWARD, *FOUR_NORMS, *QK_NORMS),
    activation="gelu_pytorch_tanh",
    norm_shift=1.0,
    rope_scaling=("linear",),
    period=6,
    scaled="self_attn.q_norm.weight",
    largest=62,
    # What the configurations on the hub leave out, as transformers fills it in.
    defaults={
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
)

TABLE: Mapping[str, Architecture] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
}


def name_of(config: Mapping[str, Any]) -> str:
    """The architecture that a configuration names, or nothing."""
    return str(next(iter(config.get("architectures") or ()), ""))


def supports(config: Mapping[str, Any]) -> bool:
    """Whether `convert` writes such a model itself; any other goes through llama.cpp's own converter."""
    return name_of(config) in TABLE


def plain_name(name: str) -> str:
    """A tensor's name as in a model that only reads text, however transformers nests it in one that also sees."""
    name = name.removeprefix("model.") if name.startswith(("model.language_model.", "model.lm_head.")) else name
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.")
        return inner if inner.startswith(("model.", "lm_head.")) else f"model.{inner}"
    return name


def is_of_vision(name: str) -> bool:
    """Whether a tensor belongs to the vision tower or to what brings images into the language model."""
    return name.removeprefix("model.").startswith(("vision_tower.", "multi_modal_projector."))


def tensor_names(architecture: Architecture, settings: Mapping[str, Any]) -> Iterator[str]:
    """Every tensor that a model with these settings has, in the order in which it is written."""
    yield EMBEDDING
    if not settings["tie_word_embeddings"]:
        yield HEAD
    yield LAST_NORM
    biases = [bias for name, some in architecture.biases.items() if settings.get(name) for bias in some]
    for number in range(settings["num_hidden_layers"]):
        for part in (*architecture.layer, *biases):
            yield f"model.layers.{number}.{part}"


def shape_of(name: str, settings: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The shape that a tensor has with these settings; None where they do not say it."""
    head, hidden, inner = settings["head_dim"], settings["hidden_size"], settings["intermediate_size"]
    lengths = {"q": settings["num_attention_heads"] * head, "k": settings["num_key_value_heads"] * head}
    sides: dict[str, tuple[int | None, int]] = {
        "q_proj": (lengths["q"], hidden),
        "k_proj": (lengths["k"], hidden),
        "v_proj": (lengths["k"], hidden),
        "o_proj": (hidden, lengths["q"]),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "q_norm": (head, 0),
        "k_norm": (head, 0),
        "embed_tokens": (None, hidden),
        "lm_head": (None, hidden),
    }
    *_, part, kind = name.split(".")
    rows, columns = sides.get(part, (hidden, 0))
    return (rows, columns) if columns and kind == "weight" else (rows,)


def has_shape(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a tensor's shape is the one that is wanted, as far as it is said."""
    return len(shape) == len(wanted) and all(two in (one, None) for one, two in zip(shape, wanted, strict=True))
