"""How many weights a model has, and how many of them are trained."""

from __future__ import annotations

import math
from typing import Any


def count_parameters(model: Any) -> dict[str, int]:
    """`total` and `trainable` numbers of a torch module, as they were before they were packed or shared out.

    Tied weights count once. Empty for a model of another kind.
    """
    if not callable(getattr(model, "parameters", None)):
        return {}
    sizes = [(_size(parameter), bool(parameter.requires_grad)) for parameter in model.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trained in sizes if trained)}


def _size(parameter: Any) -> int:
    packed = getattr(getattr(parameter, "quant_state", None), "shape", None)  # two 4-bit numbers of bitsandbytes a byte
    if packed is not None:
        return math.prod(packed)
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 holds a part of it here
