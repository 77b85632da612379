"""A checkpoint that training resumes from bit for bit, as safetensors and JSON. Imports torch.

What `torch.save` would pickle is split: tensors go into a `.safetensors` file and the rest into a `.json`
file of the same name. Only trained weights are written; frozen ones come from the base model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ftcore.api import RunError
from ftcore_plugins.sft import randomness

WEIGHTS = "weights.safetensors"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER, SCHEDULER, SCALER = "optimizer", "scheduler.json", "scaler.json"


def write_checkpoint(folder: Path, trainer: Any) -> None:
    """Write the whole state of a `transformers.Trainer` between two steps; each process its random state."""
    write_random_state(folder, trainer.args.process_index)
    if not trainer.args.should_save:
        return
    weights = trained_weights(trainer.model)
    _require_finite(weights)
    save_file(_contiguous(weights), folder / WEIGHTS)
    _write_optimizer(folder, trainer.optimizer.state_dict())
    _write_json(folder / SCHEDULER, trainer.lr_scheduler.state_dict())
    if trainer.accelerator.scaler is not None:
        _write_json(folder / SCALER, trainer.accelerator.scaler.state_dict())
    trainer.state.save_to_json(str(folder / TRAINER_STATE))


def _require_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """The last update may have broken what loss and gradient did not show yet; such a state is a dead end."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise RunError(f"the update made {name} infinite or not a number; lower train.learning_rate and resume")


def require_complete(folder: Path, *, process: int, scaler: bool) -> None:
    """Raise `RunError` when a file is missing: nothing may start from a fresh state in silence."""
    needed = [WEIGHTS, f"{OPTIMIZER}.safetensors", f"{OPTIMIZER}.json", SCHEDULER, TRAINER_STATE]
    needed += [f"{_random_name(process)}.{ending}" for ending in ("safetensors", "json")]
    needed += [SCALER] if scaler else []
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking:
        raise RunError(f"checkpoint {folder} lacks {', '.join(lacking)}; resume from another one")


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, tied ones once, and the buffers that belong to the model's state."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def read_step(folder: Path) -> int:
    """How many optimizer steps lie before the checkpoint."""
    return int(_read_json(folder / TRAINER_STATE)["global_step"])


def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Put the trained weights into the model. Raises `RunError` when they are not this model's."""
    stored, own = load_file(folder / WEIGHTS), trained_weights(model)
    strange = sorted(set(stored) ^ set(own)) or [name for name in own if own[name].shape != stored[name].shape]
    if strange:
        raise RunError(f"checkpoint {folder} is of another model: {strange[0]} differs; resume with the same profile")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])


def read_optimizer_and_scheduler(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Restore both. Raises `RunError` when the checkpoint has other parameter groups."""
    tensors = load_file(folder / f"{OPTIMIZER}.safetensors")
    document = _read_json(folder / f"{OPTIMIZER}.json")
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in document["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    try:
        optimizer.load_state_dict({"state": state, "param_groups": document["param_groups"]})
    except ValueError as error:
        raise RunError(f"checkpoint {folder} is of another optimizer: {error}; resume with the same profile") from error
    scheduler.load_state_dict(_read_json(folder / SCHEDULER))


def read_scaler(folder: Path, scaler: Any) -> None:
    """Restore the loss scale of fp16 training."""
    scaler.load_state_dict(_read_json(folder / SCALER))


def write_random_state(folder: Path, process: int) -> None:
    """Write the state of all random number generators of this process."""
    state = randomness.capture()
    save_file(_contiguous(state.tensors), folder / f"{_random_name(process)}.safetensors")
    _write_json(folder / f"{_random_name(process)}.json", state.numbers)


def read_random_state(folder: Path, process: int) -> None:
    """Restore all random number generators. Raises `RunError` when one has no state."""
    tensors = load_file(folder / f"{_random_name(process)}.safetensors")
    numbers = _read_json(folder / f"{_random_name(process)}.json")
    try:
        randomness.restore(randomness.RandomState(tensors=tensors, numbers=numbers))
    except KeyError as error:
        raise RunError(f"checkpoint {folder} has no random state {error}; resume on the machine it is from") from error


def _write_optimizer(folder: Path, state: Mapping[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        numbers[str(index)] = {key: value for key, value in values.items() if not torch.is_tensor(value)}
        tensors |= {f"{index}.{key}": value for key, value in values.items() if torch.is_tensor(value)}
    save_file(_contiguous(tensors), folder / f"{OPTIMIZER}.safetensors")
    _write_json(folder / f"{OPTIMIZER}.json", {"state": numbers, "param_groups": state["param_groups"]})


def _random_name(process: int) -> str:
    return f"random-{process}"


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _write_json(path: Path, document: Any) -> None:
    try:
        path.write_text(json.dumps(document, indent=1, default=_refuse), "utf-8")
    except TypeError as error:
        raise RunError(f"{path.name} cannot be written without pickle: {error}; choose another optimizer") from error


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} among its state")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
