"""A model without weights, to be counted. Imports transformers."""

from __future__ import annotations

from typing import Any

import torch
from transformers.initialization import no_init_weights

from ftcore_plugins.common.hub import model_class


def sketch(config: Any, dtype: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a configuration on the meta device, its parameters of `dtype`; draws no random numbers.

    Tied weights are one parameter, as they are in the loaded model. The attention implementation is not asked
    for, since a library that the planned machine has may be missing here; it has no weights.
    """
    options = {"trust_remote_code": True} if trust_remote_code else {}
    with torch.device("meta"), no_init_weights():
        model = model_class(config).from_config(config, dtype=getattr(torch, dtype), **options)
    model.tie_weights()
    return model
