"""A model without weights, to be counted. Imports transformers."""

from __future__ import annotations

from typing import Any

import torch
from transformers.initialization import no_init_weights

from ftcore.api import RunError
from ftcore_plugins.common.hub import model_class

MOST_LAYERS = 1000
"""The deepest transformer that was published has as many (DeepNet, https://arxiv.org/abs/2203.00555), Llama 3.1 405B
has 126; each one takes milliseconds to draw."""


def sketch(config: Any, dtype: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a configuration on the meta device, its parameters of `dtype`; draws no random numbers.

    Tied weights are one parameter, as they are in the loaded model. The attention implementation is not asked
    for, since a library that the planned machine has may be missing here; it has no weights. Raises `RunError` for
    a configuration of more layers than any model has.
    """
    _require_few_layers(config)
    options = {"trust_remote_code": True} if trust_remote_code else {}
    with torch.device("meta"), no_init_weights():
        model = model_class(config).from_config(config, dtype=getattr(torch, dtype), **options)
    model.tie_weights()
    return model


def _require_few_layers(config: Any) -> None:
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))]
    layers = max(getattr(part, name, 0) or 0 for part in parts for name in ("num_hidden_layers", "depth"))
    if layers > MOST_LAYERS:
        raise RunError(
            f"model.id: its config.json says {layers:,} layers, more than {MOST_LAYERS:,}; copy the model's own"
        )
