"""The options of `[plugin.tiny_model]`, and which of them no model can have together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from ftcore.api import option

Fault = tuple[str, str]
"""An option's name, and what is wrong with it."""

VISION_OPTIONS = ("image_size", "patch_size", "image_tokens", "vision_layers")


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.tiny_model]`."""

    architecture: Literal["llama", "gemma3"] = option(
        "llama", help="family of the model; llama reads text, gemma3 reads text and images"
    )
    hidden_size: int = option(64, at_least=4, help="width of the model; a multiple of 2 x heads")
    layers: int = option(2, at_least=1, help="transformer layers of the language model")
    heads: int = option(4, at_least=1, help="attention heads")
    kv_heads: int = option(2, at_least=1, help="key and value heads; divides heads")
    intermediate_size: int = option(128, at_least=1, help="width of the feed-forward layers")
    vocabulary_size: int = option(
        384, at_least=261, help="most tokens of the vocabulary: 256 bytes, 5 marks (gemma3: 10), and what is learned"
    )
    positions: int = option(2048, at_least=8, help="most tokens of one row that the model can read")
    image_size: int = option(112, at_least=1, help="gemma3 only: pixels of the square that every image is scaled to")
    patch_size: int = option(14, at_least=1, help="gemma3 only: pixels of a patch's side; divides image_size")
    image_tokens: int = option(
        16, at_least=1, help="gemma3 only: tokens of an image; their root divides the patches along a side"
    )
    vision_layers: int = option(2, at_least=1, help="gemma3 only: layers of the vision tower, as wide as the others")


def language_shape(config: Options) -> dict[str, int]:
    """The language model's shape, as transformers' configurations of every family call it."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.positions,
    }


def shape_faults(config: Options, max_length: int) -> Iterator[Fault]:
    """What is wrong with the language model, whatever its family."""
    if config.hidden_size % (2 * config.heads):
        yield "hidden_size", f"{config.hidden_size} is not a multiple of 2 x heads ({2 * config.heads})"
    if config.heads % config.kv_heads:
        yield "kv_heads", f"{config.kv_heads} does not divide heads ({config.heads})"
    if config.positions < max_length:
        yield "positions", f"{config.positions} is less than train.max_length ({max_length}); raise it"


def vision_faults(config: Options) -> Iterator[Fault]:
    """What is wrong with the vision tower of a model that has one."""
    patches, rest = divmod(config.image_size, config.patch_size)
    if rest or not patches:
        yield "patch_size", f"{config.patch_size} does not divide image_size ({config.image_size})"
    elif config.image_tokens not in (fitting := [n * n for n in range(1, patches + 1) if patches % n == 0]):
        choice = ", ".join(str(tokens) for tokens in fitting)
        yield "image_tokens", f"{config.image_tokens} do not tile {patches} x {patches} patches; take one of {choice}"


def unread_options(config: Options) -> Iterator[Fault]:
    """Options that a model without eyes would pass over in silence."""
    defaults = Options()
    for name in VISION_OPTIONS:
        if getattr(config, name) != getattr(defaults, name):
            fix = "leave it out, or set architecture = 'gemma3'"
            yield name, f"a {config.architecture} reads no images, so nothing reads this; {fix}"
