"""How much arithmetic a run is, and how long it takes on a card of known speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs

from ftcore.planning.facts import Layer, ModelFacts, Part, Tower
from ftcore.planning.memory import quantized_weights
from ftcore.planning.setting import Setting

EFFICIENCY: Mapping[str, float] = MappingProxyType({"cuda": 0.40, "mps": 0.30, "cpu": 0.60})
"""Share of the data sheet's operations that training reaches, with layers as wide as those of models from 1B up."""

UNPACKING = 0.75
"""What is left of it when weights are unpacked from 4 or 8 bits for every product."""

WIDE = 0.5
"""What is left of the 16-bit rate of the data sheet for products of float32 numbers on a GPU, at best (TF32)."""

TERA = 1e12


@attrs.frozen(kw_only=True)
class Speed:
    """Operations of an average row (a multiply-add is two), and what they come to.

    Rates and times are of all devices together, and None without a known rate of the device.
    """

    operations: float
    efficiency: float
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    steps: int | None = None
    hours: float | None = None


def speed(facts: ModelFacts, setting: Setting, *, tflops: float | None, steps: int | None) -> Speed:
    """The pace on a device of `tflops` tera-operations a second, by its data sheet."""
    per_row = operations(facts, setting)
    share = efficiency(facts, setting)
    if not tflops:
        return Speed(operations=per_row, efficiency=share, steps=steps)
    rows_per_second = tflops * TERA * share / per_row * setting.sharding.parts
    step = setting.micro * setting.accumulation * setting.sharding.parts / rows_per_second
    return Speed(
        operations=per_row,
        efficiency=share,
        tokens_per_second=rows_per_second * setting.rows.typical,
        step_seconds=step,
        steps=steps,
        hours=None if steps is None else steps * step / 3600,
    )


def efficiency(facts: ModelFacts, setting: Setting) -> float:
    """Share of the data sheet's rate that is taken to be reached."""
    share = EFFICIENCY[setting.device]
    if quantized_weights(facts, setting)[1]:
        share *= UNPACKING
    half = setting.autocast or setting.masters
    return share if half or setting.device == "cpu" else share * WIDE


def operations(facts: ModelFacts, setting: Setting) -> float:
    """Operations of an average row, forward and backward.

    A frozen weight has no gradient of its own, and below the first layer that learns there is no backward pass at
    all. Checkpointing adds a forward pass of the layers.
    """
    rows = setting.rows
    total = _tower(facts.linear(Part.TEXT), facts.text, setting, tokens=rows.typical, length=rows.typical)
    output = facts.linear(Part.OUTPUT) or (_output(facts),)
    total += sum(_product(layer, backward=True) for layer in output) * rows.typical_trained
    if facts.vision is not None and rows.images:
        seen = float(rows.images * facts.patches)
        total += _tower(facts.linear(Part.VISION), facts.vision, setting, tokens=seen, length=float(facts.patches))
        between = facts.linear(Part.PROJECTOR)
        total += sum(_product(layer, backward=layer.learns) for layer in between) * rows.images * facts.image_tokens
    return total


def _tower(layers: Sequence[Layer], tower: Tower, setting: Setting, *, tokens: float, length: float) -> float:
    again = setting.checkpointing and tower.learning_blocks > 0
    total = 0.0
    for layer in layers:
        backward = (layer.block or 0) >= tower.learns_from
        total += (_product(layer, backward=backward) + (2 * layer.weights if again else 0)) * tokens * layer.share
    passes = tower.blocks + (2 + again) * tower.learning_blocks
    if tower.experts:
        whole = sum(layer.trained for layer in layers) > len(layers) // 2  # experts learn with most of the layers
        total += 2 * tower.experts * tokens * (tower.blocks + (1 + again + whole) * tower.learning_blocks)
    return total + passes * 4 * tower.queries * length * tokens * (0.5 if setting.attention != "eager" else 1)


def _product(layer: Layer, *, backward: bool) -> float:
    """Operations of one token: forward, back to the input, and to the weights if they learn."""
    inner = layer.adapter * (2 + 4 * backward) if layer.rank else 0
    return layer.weights * (2 + 2 * backward + 2 * layer.trained) + inner


def _output(facts: ModelFacts) -> Layer:
    return Layer(name="output", inputs=facts.text.width, outputs=facts.vocabulary, bias=False, part=Part.OUTPUT)
