"""Merges with the whole model in memory, by PEFT: what the streaming merge refuses. Imports PEFT."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from ftcore.api import RunError
from ftcore_plugins.common.adapters.quantized import kind_of
from ftcore_plugins.common.hub import hub_errors
from ftcore_plugins.common.merging.adapter import PREFIX, read_adapter
from ftcore_plugins.common.merging.shards import require_finite
from ftcore_plugins.common.merging.source import Source
from ftcore_plugins.common.merging.streaming import Whole
from ftcore_plugins.common.quiet import quiet_logger
from ftcore_plugins.common.saved import read_whole

REFUSALS = (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""PEFT does not look at the settings of an adapter before it goes by them."""


@contextmanager
def merging_errors() -> Iterator[None]:
    """Turn what PEFT, and transformers as it saves, refuse in many ways into a `RunError` of one sentence."""
    try:
        yield
    except REFUSALS as error:
        raise RunError(f"merge: the adapter cannot be merged: {str(error).strip().partition(chr(10))[0]}") from error


def merge(kind: Any, source: Source, dtype: torch.dtype, trained_on: Whole) -> Any:
    """The merged model, its weights in `dtype`; `trained_on` are layers whose weights are not the base's.

    `kind` is the auto class of the model. Raises `RunError` when the base cannot be loaded, and, inside of
    `merging_errors`, when PEFT cannot merge.
    """
    loaded = source.loaded
    with hub_errors(loaded.base, loaded.revision):
        config = read_whole(source.base_config)
        model = kind.from_pretrained(loaded.base, config=config, dtype=dtype, use_safetensors=True, **source.place)
    model = _whole(kind, model) if kind_of(model) else model
    for name, weight in trained_on.items():
        model.get_submodule(name).weight.data.copy_(weight())
    tuned = PeftModel.from_pretrained(model, source.saved)
    _require_taken(tuned, source)
    merged = tuned.merge_and_unload().to(dtype)  # what the adapter trained whole is float32
    for name, tensor in merged.state_dict().items():
        require_finite(name, tensor)
    return merged


def _require_taken(tuned: Any, source: Source) -> None:
    """PEFT passes over what has no place in the model."""
    adapter = read_adapter(source.saved, source.loaded)
    taken = {name.removeprefix(PREFIX) for name in get_peft_model_state_dict(tuned, save_embedding_layers=False)}
    strange = sorted(adapter.tensors.keys() - taken)
    if strange:
        raise adapter.foreign(source.loaded.base, f"it has {strange[0]}, and there is no place for it")


def _whole(kind: Any, saved_quantized: Any) -> Any:
    """The same model with whole weights, built anew: transformers cannot save one that it has dequantized itself."""
    config = copy.deepcopy(saved_quantized.config)
    del config.quantization_config
    model = kind.from_config(config, dtype=config.dtype)
    model.generation_config = saved_quantized.generation_config
    with quiet_logger("transformers.integrations.bitsandbytes"):
        model.load_state_dict(saved_quantized.dequantize().state_dict())
    return model
