"""How much a model's answers change when its layers calculate a little less exactly. Imports torch.

Models differ in this by orders of magnitude, and so does what quantizing does to them: with it, rounding can be told
from a fault in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ftcore_plugins.common.answering import Answering
from ftcore_plugins.common.proof.comparison import divergence
from ftcore_plugins.common.proof.reference import Passage

SHAKEN_BY = 2.0**-8
"""Of a layer's output, by its root mean square: about what rounding to eight bits does."""


def sensitivity(tuned: Answering, passages: Sequence[Passage]) -> float:
    """Mean divergence, in nats, from the answers in `passages` when every linear layer's output is off at random.

    The noise comes from a generator of its own: no random number is drawn, and each time the same.
    """
    with _shaken(tuned.model):
        found = [
            divergence(wanted, answer)
            for passage in passages
            for wanted, answer in zip(
                passage.log_probabilities, tuned.distributions(passage.ids, passage.positions), strict=True
            )
        ]
    return float(np.mean(found)) if found else 0.0


@contextmanager
def _shaken(model: Any) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    hooks = [layer.register_forward_hook(_noise(generator)) for layer in _layers(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: Any) -> Iterator[Any]:
    """Every linear layer once: one with an adapter as a whole."""
    for name, module in model.named_modules():
        inside = any(part in name for part in (".lora_", ".modules_to_save."))
        inside = inside or name.endswith((".base_layer", ".original_module"))
        if hasattr(module, "in_features") and not inside:
            yield module


def _noise(generator: torch.Generator) -> Callable[[Any, Any, Any], Any]:
    def add(_: Any, __: Any, output: Any) -> Any:
        noise = torch.randn(output.shape, generator=generator).to(output)
        return output + SHAKEN_BY * output.square().mean(-1, keepdim=True).sqrt() * noise

    return add
