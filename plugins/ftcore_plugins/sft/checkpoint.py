"""A checkpoint that training resumes from bit for bit, as safetensors and JSON. Imports torch.

What `torch.save` would pickle is split: tensors go into a `.safetensors` file and the rest into a `.json`
file of the same name. Only trained weights are written; frozen ones come from the base model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file, save_file

from ftcore.api import RunError
from ftcore_plugins.sft import randomness
from ftcore_plugins.sft.broken import broken_weight

WEIGHTS = "weights.safetensors"
TRAINER_STATE = "trainer_state.json"
OPTIMIZER, SCHEDULER, SCALER = "optimizer", "scheduler.json", "scaler.json"
PROCESSES = "processes"
NESTED = "/"


@attrs.frozen(kw_only=True)
class TrainedState:
    """Trained weights and optimizer state, whole on the main process."""

    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]


def trained_state(trainer: Any) -> TrainedState:
    """What a checkpoint is about. All processes put it together, before any of them writes."""
    weights = trainer.shards.weights(trained_names(trainer.model))
    return TrainedState(weights=weights, optimizer=trainer.shards.optimizer_state())


def write_checkpoint(folder: Path, trainer: Any, state: TrainedState) -> None:
    """Write the whole state of a `StepwiseTrainer` between two steps; each process its random state."""
    write_random_state(folder, trainer.ranks.rank, trainer.ranks.size)
    if not trainer.args.should_save:
        return
    _require_finite(state.weights)
    save_file(_contiguous(state.weights), folder / WEIGHTS)
    _write_optimizer(folder, state.optimizer)
    _write_json(folder / SCHEDULER, trainer.lr_scheduler.state_dict())
    if trainer.accelerator.scaler is not None:
        _write_json(folder / SCALER, trainer.accelerator.scaler.state_dict())
    trainer.state.save_to_json(str(folder / TRAINER_STATE))


def _require_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """The last update may have broken what loss and gradient did not show yet; such a state is a dead end."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise broken_weight(name)


def require_complete(folder: Path, *, scaler: bool) -> None:
    """Raise `RunError` when a file is missing: nothing may start from a fresh state in silence."""
    needed = [WEIGHTS, f"{OPTIMIZER}.safetensors", f"{OPTIMIZER}.json", SCHEDULER, TRAINER_STATE]
    needed += [SCALER] if scaler else []
    for process in range(_processes_of(folder)):
        needed += [f"{_random_name(process)}.{ending}" for ending in ("safetensors", "json")]
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking:
        raise RunError(f"checkpoint {folder} lacks {', '.join(lacking)}; resume from another one")


def _processes_of(folder: Path) -> int:
    """How many processes wrote the checkpoint."""
    main = folder / f"{_random_name(0)}.json"
    return int(_read_json(main).get(PROCESSES, 1)) if main.is_file() else 1


def trained_names(model: torch.nn.Module) -> list[str]:
    """Trainable parameters, tied ones once, and the buffers that belong to the model's state."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in model.named_buffers()}
    return [name for name in model.state_dict() if name in names]


def read_step(folder: Path) -> int:
    """How many optimizer steps lie before the checkpoint."""
    return int(_read_json(folder / TRAINER_STATE)["global_step"])


def read_weights(folder: Path, trainer: Any) -> None:
    """Put the trained weights into the model. Raises `RunError` when they are not this model's."""
    stored, own = load_file(folder / WEIGHTS), trained_names(trainer.model)
    shapes = trainer.shapes
    strange = sorted(set(stored) ^ set(own)) or [name for name in own if shapes[name] != stored[name].shape]
    if strange:
        raise RunError(f"checkpoint {folder} is of another model: {strange[0]} differs; resume with the same profile")
    trainer.shards.put_weights({name: stored[name] for name in own})


def read_optimizer_and_scheduler(folder: Path, trainer: Any) -> None:
    """Restore both. Raises `RunError` when the checkpoint has other parameter groups."""
    document = _read_json(folder / f"{OPTIMIZER}.json")
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in document["state"].items()}
    for name, tensor in load_file(folder / f"{OPTIMIZER}.safetensors").items():
        index, _, key = name.partition(".")
        outer, nested, inner = key.partition(NESTED)
        place = state.setdefault(int(index), {})
        (place.setdefault(outer, {}) if nested else place)[inner or outer] = tensor
    try:
        trainer.shards.put_optimizer_state({"state": state, "param_groups": document["param_groups"]})
    except ValueError as error:
        raise RunError(f"checkpoint {folder} is of another optimizer: {error}; resume with the same profile") from error
    trainer.lr_scheduler.load_state_dict(_read_json(folder / SCHEDULER))


def read_scaler(folder: Path, scaler: Any) -> None:
    """Restore the loss scale of fp16 training."""
    scaler.load_state_dict(_read_json(folder / SCALER))


def write_random_state(folder: Path, process: int, processes: int) -> None:
    """Write the state of all random number generators of this process, one of so many."""
    state = randomness.capture()
    save_file(_contiguous(state.tensors), folder / f"{_random_name(process)}.safetensors")
    _write_json(folder / f"{_random_name(process)}.json", {**state.numbers, PROCESSES: processes})


def read_random_state(folder: Path, process: int, processes: int) -> None:
    """Restore all random number generators. Raises `RunError` when one has no state.

    A process that the checkpoint does not know goes on from the main one's state, moved by its own number. That is
    said aloud: random numbers are then not those of an unbroken run.
    """
    written = _processes_of(folder)
    if process == 0 and written != processes:
        changed = f"{written} processes wrote the checkpoint and {processes} go on"
        logging.getLogger("ftcore.plugins.sft").warning("%s: dropout draws other numbers than in one run", changed)
    source = process if process < written else 0
    tensors = load_file(folder / f"{_random_name(source)}.safetensors")
    numbers = _read_json(folder / f"{_random_name(source)}.json")
    try:
        randomness.restore(randomness.RandomState(tensors=tensors, numbers=numbers))
    except KeyError as error:
        raise RunError(f"checkpoint {folder} has no random state {error}; resume on the machine it is from") from error
    if source != process:
        randomness.move(process)


def _write_optimizer(folder: Path, state: Mapping[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        flat = _flat(values)
        numbers[str(index)] = {key: value for key, value in flat.items() if not torch.is_tensor(value)}
        tensors |= {f"{index}.{key}": value for key, value in flat.items() if torch.is_tensor(value)}
    save_file(_contiguous(tensors), folder / f"{OPTIMIZER}.safetensors")
    _write_json(folder / f"{OPTIMIZER}.json", {"state": numbers, "param_groups": state["param_groups"]})


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """One level, as safetensors has it: bitsandbytes keeps its quantized state in a dictionary of its own."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = value if isinstance(value, dict) and all(map(torch.is_tensor, value.values())) else None
        flat |= {key: value} if nested is None else {f"{key}{NESTED}{inner}": nested[inner] for inner in nested}
    return flat


def _random_name(process: int) -> str:
    return f"random-{process}"


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As safetensors takes them, which knows no tensor under two names: bitsandbytes shares its tables."""
    seen: set[int] = set()
    written = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        written[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    return written


def _write_json(path: Path, document: Any) -> None:
    try:
        path.write_text(json.dumps(document, indent=1, default=_refuse), "utf-8")
    except TypeError as error:
        raise RunError(f"{path.name} cannot be written without pickle: {error}; choose another optimizer") from error


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} among its state")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
