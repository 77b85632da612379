"""Keeps trained weights from being rounded. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unrounded(model: Any) -> Iterator[None]:
    """Give the trained weights back as they were before TRL's trainer was built, and in float32: master weights.

    It makes those of a quantized model bfloat16. A start from singular values would no longer add up to the weights
    that it was made from, and a resumed run would start from other bits than the adapter that was saved.
    """
    quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    kept = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad] if quantized else []
    yield
    for weight, data in kept:
        weight.data = data.to(weight.device)
    for weight in model.parameters():
        if weight.requires_grad and not hasattr(weight, "ds_id"):  # ZeRO-3 keeps masters of its own
            weight.data = weight.data.float()
