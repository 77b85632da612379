"""How far a model's answers move when its weights are rounded once more. Imports MLX.

If an artifact is the tuned model but for rounding, then the tuned model is the artifact but for rounding of the same
size. So what another such rounding does to the artifact's own answers says how far from the tuned model's they may
be, whatever the model, the bits and the groups are: no table of figures knows that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

SEED = 20
HALF = (mx.bfloat16, mx.float16)
STEP = float(mx.finfo(mx.bfloat16).eps)
"""Of a whole weight, also of one in float16: the merged model that it comes from is in bfloat16 more often than not."""

SHARE = 1 / 12
"""Of all weights, how many to move by one step, so that the mean square is that of rounding: up to half a step, evenly
distributed."""


def rounded_again(model: Any, times: int) -> Iterator[None]:
    """Give the model's weights other rounding errors, so many times; those of 16 bits once.

    The model is of no use afterwards. Nothing is yielded for one in float32, and for one whose quantized layers have
    no offsets, as MLX's affine ones have.
    """
    layers = [layer for _, layer in model.named_modules() if "scales" in layer]
    if layers:
        yield from _quantized_again([layer for layer in layers if "biases" in layer], times)
    elif any(weight.dtype in HALF for _, weight in tree_flatten(model.parameters())):
        mx.random.seed(SEED)
        for name, weight in tree_flatten(model.parameters()):
            moved = _stepped(weight)
            mx.eval(moved)  # one after the other: all of them at once would take as much memory again
            model.update(tree_unflatten([(name, moved)]))
        yield


def _stepped(weight: Any) -> Any:
    if weight.dtype not in HALF:
        return weight
    drawn = mx.random.uniform(-1, 1, weight.shape)
    return mx.where(mx.abs(drawn) < SHARE, weight * (1 + STEP * mx.sign(drawn)).astype(weight.dtype), weight)


def _quantized_again(layers: Sequence[Any], times: int) -> Iterator[None]:
    offsets = [layer.biases for layer in layers]
    for time in range(times if layers else 0):
        mx.random.seed(SEED + time)
        for layer, offset in zip(layers, offsets, strict=True):
            layer.biases = _moved(layer, offset)
        yield


def _moved(layer: Any, offset: Any) -> Any:
    """The offset of each group, moved by as much as a weight of it may be off.

    A weight is off by up to half a step, evenly distributed, and moreover by the rounding of the offset and of the
    scale, which counts once for each of its steps: with 8 bits this is the greater part.
    """
    scale, exact = mx.abs(layer.scales.astype(mx.float32)), offset.astype(mx.float32)
    unit = float(mx.finfo(offset.dtype).eps) / 2
    reach = scale + unit * (mx.abs(exact) + scale * (2**layer.bits - 1) / 2)
    return (exact + reach * mx.random.uniform(-0.5, 0.5, exact.shape)).astype(offset.dtype)
