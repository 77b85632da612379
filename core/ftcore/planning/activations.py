"""What the backward pass keeps of the forward pass, in bytes, layer by layer.

Counted from what PyTorch's operators save: the input of every product whose weight learns, the operands of the gated
product, queries, keys, values and the output of attention, and the input of each normalization (in float32, as
the models of transformers normalize). Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198) count the same for
models that are trained whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from ftcore.planning.facts import Layer, ModelFacts, Part, Tower
from ftcore.planning.setting import FLOAT32, HALF, Setting

_OWN_INPUT = re.compile(r"(^|\.)(o_proj|out_proj|down_proj|dense|c_proj|fc2|wo|w2)$")


@attrs.frozen(kw_only=True)
class Activations:
    """Bytes of one micro-batch on one device.

    `kept` is all that the backward pass starts with but the logits; `block` is what one layer needs while it is
    computed again and differentiated; `vision` what the vision tower needs for a moment in the forward pass, and
    `logits` what the loss needs at the labelled positions.
    """

    kept: float
    block: float
    logits: float
    vision: float = 0.0


def activations(facts: ModelFacts, setting: Setting) -> Activations:
    """What a micro-batch of the longest rows keeps."""
    rows = setting.rows
    tokens, length = setting.micro * rows.longest, rows.longest
    text = _tower_bytes(facts, facts.text, Part.TEXT, setting, tokens=tokens, length=length)
    kept, block = text
    kept += tokens * facts.text.width * FLOAT32  # the last normalization
    pictures, moment = setting.micro * rows.images, 0.0
    if facts.vision is not None and pictures:
        seen = pictures * facts.patches
        watched, vision_block = _tower_bytes(
            facts, facts.vision, Part.VISION, setting, tokens=seen, length=facts.patches
        )
        kept, block = kept + watched, max(block, vision_block)
        moment = _moment(facts.vision, setting, tokens=seen, length=facts.patches)
    return Activations(kept=kept, block=block, logits=_logits(facts, setting), vision=moment)


def _tower_bytes(
    facts: ModelFacts, tower: Tower, part: Part, setting: Setting, *, tokens: int, length: int
) -> tuple[float, float]:
    """What a tower keeps in all, and what one of its layers needs at once."""
    if not tower.learning_blocks:
        return 0.0, 0.0
    inside = [layer for layer in facts.layers if layer.part is part and layer.block is not None]
    per_token = sum(_linear(layers, setting) for layers in _by_block(inside)) / max(1, tower.blocks)
    trained = facts.trained_base > 0 and not facts.added
    per_token += _norms(tower, trained=trained) + _attention(tower, setting) + _products(tower, setting)
    one = tokens * per_token + _scores(tower, setting, part, tokens=tokens, length=length)
    work = tokens * _gradients(tower, setting)
    if setting.checkpointing:
        return tower.learning_blocks * tokens * tower.width * residual(facts, setting), one + work
    return tower.learning_blocks * one, work


def residual(facts: ModelFacts, setting: Setting) -> int:
    """Bytes of a number of what goes from layer to layer: the type of the embeddings, which are float32 if trained."""
    return setting.trained if facts.trained_base and not facts.added else setting.weight


def _by_block(layers: Iterable[Layer]) -> list[list[Layer]]:
    blocks: dict[int | None, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return list(blocks.values())


def _linear(layers: Iterable[Layer], setting: Setting) -> float:
    """Inputs of the products that learn, of one layer of a tower, in bytes a token."""
    total, shared = 0.0, set()
    for layer in layers:
        if not layer.learns:
            continue
        group = (layer.name.rpartition(".")[0], layer.inputs, layer.name if _OWN_INPUT.search(layer.name) else "")
        kept = layer.rank * setting.compute
        if _casts(layer, setting) or layer.drops:  # its own copy; the dropped one has a mask beside it
            mask = 0 if not layer.drops else 1 if setting.device == "cuda" else setting.compute
            kept += layer.inputs * (setting.compute + mask)
        elif group not in shared and not _is_kept_anyhow(layer):
            shared.add(group)
            kept += layer.inputs * setting.compute
        total += kept * layer.share
    return total


def _casts(layer: Layer, setting: Setting) -> bool:
    """Whether a product has its input cast for itself: autocast remembers casts of weights only.

    An adapter in float32 on a layer that is not quantized casts to float32 and back; one on a quantized layer does not.
    """
    quantized = setting.quantization is not None and setting.quantization.bytes_per_weight is not None
    return setting.autocast and not (layer.rank and quantized) and not (layer.trained and _is_kept_anyhow(layer))


def _is_kept_anyhow(layer: Layer) -> bool:
    """The output of attention is its own, and kept as such."""
    return layer.name.endswith(("o_proj", "out_proj"))


def _norms(tower: Tower, *, trained: bool) -> float:
    wide = tower.norms * tower.width * FLOAT32 * (2 if trained else 1)
    heads = (tower.queries + tower.keys) * FLOAT32 * (2 if trained else 1) if tower.head_norms else 0
    return wide + heads


def _is_masked(setting: Setting) -> bool:
    """Whether attention gets a mask: rows of one micro-batch are padded, and the tokens of a picture see each other."""
    return setting.attention == "eager" or (
        setting.attention == "sdpa" and (setting.micro > 1 or setting.rows.images > 0)
    )


def _attention(tower: Tower, setting: Setting) -> float:
    # With a mask, keys and values are repeated for every head of the queries.
    repeated = tower.queries if _is_masked(setting) else tower.keys
    return (2 * tower.queries + 2 * repeated) * setting.compute + tower.heads * FLOAT32


def _products(tower: Tower, setting: Setting) -> float:
    """Of the feed-forward network: what goes into its function and comes out of it, and the other factor of a gate."""
    return (3 if tower.gated else 2) * tower.inner * setting.compute


def _scores(tower: Tower, setting: Setting, part: Part, *, tokens: int, length: int) -> float:
    """What grows with the square of the length: a mask of numbers for each layer, or the weights of eager attention.

    Eager attention keeps them in float32 and as they are multiplied with the values.
    """
    if setting.attention == "eager":
        return float(tokens) * length * tower.heads * (FLOAT32 + (HALF if setting.compute == HALF else 0))
    masked = part is Part.TEXT and _is_masked(setting)
    return float(tokens) * length * setting.compute if masked else 0.0


def _gradients(tower: Tower, setting: Setting) -> float:
    """Of one layer while it is differentiated, in bytes a token: its feed-forward network is the widest place."""
    return (3 if tower.gated else 2) * tower.inner * setting.compute + 2 * tower.width * FLOAT32


def _moment(tower: Tower, setting: Setting, *, tokens: int, length: int) -> float:
    """The most that one layer holds in a forward pass that nobody differentiates."""
    scores = float(tokens) * length * tower.heads * FLOAT32 if setting.attention == "eager" else 0.0
    return tokens * (2 * tower.inner + 2 * tower.width) * setting.compute + scores


def _logits(facts: ModelFacts, setting: Setting) -> float:
    """Log-probabilities, their gradient, and the gradient of the logits, in float32, side by side."""
    positions = setting.micro * setting.rows.trained
    return positions * (3 * facts.vocabulary * FLOAT32 + 2 * facts.text.width * setting.compute)
