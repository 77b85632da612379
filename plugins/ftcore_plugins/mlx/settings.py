"""Settings of a model that MLX looks for elsewhere, or passes over without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BASES = {"full_attention": ("rope_theta", "rope_global_base_freq"), "sliding_attention": ("rope_local_base_freq",)}
"""What MLX calls the base frequency of each kind of layer, in the families that have more than one."""


def as_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what mlx-vlm 0.7 reads of Gemma 3 where it looks for it.

    It takes the number of an image's tokens from `text_config`, or it is 256, and the width that an image's features
    are divided by from the top, or it is 2048.
    """
    text = config.get("text_config")
    if not isinstance(text, dict) or "mm_tokens_per_image" not in config:
        return dict(config)
    own = {"hidden_size": text["hidden_size"]} if "hidden_size" in text else {}
    text = {"mm_tokens_per_image": config["mm_tokens_per_image"], **text}
    return {**own, **config, "text_config": text}


def unread_rope(config: Mapping[str, Any], read: Any) -> str:
    """Which rope settings of a configuration the model runs without; empty if none.

    `read` is what the model has taken from it. transformers 5 writes `rope_parameters`; most classes of mlx-lm read
    the older `rope_theta` and `rope_scaling` alone, and run with their defaults if these are not there.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or hasattr(read, "rope_parameters"):
        return ""
    unread = sorted({name for kind, part in _parts(rope) for name in _unread(kind, part, read)})
    if not unread:
        return ""
    return f"config.json has {', '.join(unread)} in rope_parameters alone, where MLX does not read it; export again"


def _parts(rope: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings of each kind of layer; all are of one kind in most families."""
    kinds = [kind for kind in BASES if isinstance(rope.get(kind), dict)]
    yield from ((kind, rope[kind]) for kind in kinds)
    if not kinds:
        yield "full_attention", rope


def _unread(kind: str, part: Mapping[str, Any], read: Any) -> Iterator[str]:
    base = part.get("rope_theta")
    taken = [getattr(read, name) for name in BASES[kind] if hasattr(read, name)]
    if base is not None and taken and base not in taken:
        yield "rope_theta"
    scaled = part.get("rope_type", "default") != "default"
    if scaled and kind == "full_attention" and getattr(read, "rope_scaling", part) is None:
        yield "rope_scaling"
