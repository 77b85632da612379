"""Tuned weights of a checkpoint, or of what was saved, back into the model. Imports transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ftcore.api import Loaded, Run, RunError
from ftcore_plugins.common.hub import model_class
from ftcore_plugins.common.quiet import no_deprecations, no_progress_bars
from ftcore_plugins.sft import checkpoint

ADAPTER = "adapter_model.safetensors"
FIX = "name the run that it was tuned in"

Tensors = Mapping[str, torch.Tensor]


def read(folder: Path, run: Run, trainer: Any, loaded: Loaded) -> None:
    """Put the weights in `folder` into the trainer's model. Raises `RunError` when they are not this model's, when
    there are none, or when one is no number."""
    if (folder / checkpoint.WEIGHTS).is_file():
        _require_numbers(folder, _file(folder / checkpoint.WEIGHTS))
        checkpoint.read_weights(folder, trainer)
        return
    if trainer.is_sharded and not loaded.adapter:
        raise RunError(f"{folder} holds a whole model, and this one is shared out; name a checkpoint with --checkpoint")
    if loaded.adapter:
        _require_base(folder, loaded.base)
    own = _adapter(folder, trainer.model) if loaded.adapter else _whole(folder, run, trainer.model)
    _require_own(folder, own, trainer)
    _require_numbers(folder, own)
    trainer.shards.put_weights(own)


def _require_base(folder: Path, base: str) -> None:
    """A folder may have been moved since; a model of the hub has one name."""
    try:
        named = json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} has no sound adapter_config.json: {error!r}; {FIX}") from error
    if named != base and not Path(base).is_dir():
        raise RunError(f"{folder} is an adapter of {named}, and the model is {base}; {FIX}")


def _adapter(folder: Path, model: Any) -> Tensors:
    """By the names of the model's state, which PEFT's files leave the adapter's name out of."""
    from peft import get_peft_model_state_dict

    from ftcore_plugins.common.adapters.starts import without_starts

    stored = without_starts(_file(folder / ADAPTER), model, folder)
    names = list(model.state_dict())
    # What is saved under which name is PEFT's to say: it is asked to save numbers in the place of the weights.
    numbers = {name: torch.tensor(number) for number, name in enumerate(names)}
    saved = get_peft_model_state_dict(model, state_dict=numbers, save_embedding_layers=False)
    places = {name: names[int(number)] for name, number in saved.items()}
    strange = sorted(set(stored) ^ set(places))
    if strange:
        raise RunError(f"{folder} is of another adapter: {strange[0]} differs; {FIX}")
    return {places[name]: tensor for name, tensor in stored.items()}


def _whole(folder: Path, run: Run, model: Any) -> Tensors:
    """By transformers, since files have names of their own for some weights."""
    options = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    trusted = run.profile.model.trust_remote_code
    try:
        with no_progress_bars(), no_deprecations(), torch.random.fork_rng():
            kind = model_class(model.config)
            whole, report = kind.from_pretrained(folder, output_loading_info=True, trust_remote_code=trusted, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise RunError(f"{folder} cannot be loaded: {cause}; {FIX}") from error
    strange = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if strange:
        raise RunError(f"{folder} is of another model: {strange[0]} differs; {FIX}")
    state: dict[str, torch.Tensor] = whole.state_dict()
    return state


def _file(path: Path) -> dict[str, torch.Tensor]:
    try:
        stored: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}; {FIX}") from error
    if not stored:
        raise RunError(f"{path} is empty: there are no weights in it; {FIX}")
    return stored


def _require_own(folder: Path, weights: Tensors, trainer: Any) -> None:
    """Every trained weight, of the model's own shape."""
    shapes = trainer.shapes
    lacking = [name for name in checkpoint.trained_names(trainer.model) if name not in weights]
    other = [name for name in weights if name not in shapes or shapes[name] != weights[name].shape]
    for name in [*lacking, *other]:
        raise RunError(f"{folder} is of another model: {name} differs; {FIX}")


def _require_numbers(folder: Path, weights: Tensors) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise RunError(f"{folder}: {name} has a value that is infinite or not a number; take another checkpoint")
