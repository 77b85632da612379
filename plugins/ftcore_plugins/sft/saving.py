"""The tuned model on disk, and back from there where the ranks hold it in parts. Imports transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ftcore.api import Loaded, Run
from ftcore_plugins.common.hub import base_place, hub_errors, model_class
from ftcore_plugins.common.quiet import no_deprecations, no_progress_bars
from ftcore_plugins.common.staging import staged
from ftcore_plugins.sft.checkpoint import trained_names


def write(folder: Path, run: Run, trainer: Any, loaded: Loaded) -> Loaded:
    """Save the adapter, or the whole model if there is none; return it as one process holds it.

    Every rank calls it; the main one writes.
    """
    model, parts = trainer.model, trainer.is_sharded
    names = trained_names(model) if loaded.adapter else list(model.state_dict())
    weights = trainer.shards.weights(names) if parts else None
    unset_hf_deepspeed_config()  # from here on, the main rank loads models for itself, as exporters do
    if not trainer.args.should_save:
        return loaded
    # The base keeps its embeddings; to look whether they grew, PEFT would ask the hub for its config.
    options: dict[str, Any] = {"save_embedding_layers": False} if loaded.adapter else {}
    options |= {} if weights is None else {"state_dict": _by_each_name(model, weights)}
    with staged(folder) as staging, no_progress_bars():
        model.save_pretrained(staging, **options)
        model.generation_config.save_pretrained(staging)
        loaded.processor.save_pretrained(staging)
        (staging / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    return _read(folder, run, model, loaded) if parts else loaded


def _by_each_name(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tied weight has several names, is gathered by one of them, and PEFT asks for it by all."""
    gathered = {id(parameter): name for name, parameter in model.named_parameters() if name in weights}
    named = model.named_parameters(remove_duplicate=False)
    others = {name: weights[gathered[id(parameter)]] for name, parameter in named if id(parameter) in gathered}
    return {**others, **weights}


def _read(folder: Path, run: Run, model: Any, loaded: Loaded) -> Loaded:
    """What was written, on the CPU: it was shared out because it may be larger than a device."""
    options = {"use_safetensors": True, "attn_implementation": model.config._attn_implementation}
    trusted = run.profile.model.trust_remote_code
    kind = model_class(model.config)
    with no_progress_bars(), no_deprecations(), torch.random.fork_rng():
        if not loaded.adapter:
            options |= {"local_files_only": True, "trust_remote_code": trusted}
            whole = kind.from_pretrained(folder, dtype=torch.float32, **options)
            return attrs.evolve(loaded, model=whole)
        from peft import PeftModel

        place = base_place(loaded, trusted=trusted)
        with hub_errors(loaded.base, loaded.revision):
            base = kind.from_pretrained(loaded.base, dtype=model.config.dtype, **options, **place)
        return attrs.evolve(loaded, model=PeftModel.from_pretrained(base, folder))
