"""Weights and optimizer state, whole, whichever way they lie on the ranks. Imports torch.

A checkpoint does not know how many processes wrote it: it holds every trained weight and its optimizer state as
one process has them, and each rank takes its own part of that. Every rank calls every method, in the same order;
what comes back is whole on the main one, and not to be used elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate.utils import DistributedType

Tensors = Mapping[str, torch.Tensor]
State = Mapping[str, Any]
"""As `torch.optim.Optimizer.state_dict` gives it."""


class Shards(Protocol):
    """How the trained weights of one strategy are put together and taken apart."""

    def weights(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Those entries of the model's state dict, in the precision that the optimizer keeps them in."""

    def put_weights(self, weights: Tensors) -> None:
        """Set those entries."""

    def optimizer_state(self) -> State:
        """The optimizer's whole state."""

    def put_optimizer_state(self, state: State) -> None:
        """Restore it. Raises `ValueError` when it has other parameter groups."""


def shards_of(trainer: Any) -> Shards:
    """The way that accelerate laid the trainer's model out."""
    kind: Mapping[Any, Callable[[Any], Shards]] = {DistributedType.FSDP: FullyShardedShards}
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        from ftcore_plugins.sft.zero import ZeroShards

        return ZeroShards(trainer)
    return kind.get(trainer.accelerator.distributed_type, WholeShards)(trainer)


def gathered_at_once(model: Any) -> list[str]:
    """Names of the layers' classes. The model's own list, which FSDP goes by, may name some that it does not have."""
    there = {type(module).__name__ for module in model.modules()}
    return sorted(there & set(getattr(model, "_no_split_modules", None) or ()))


class WholeShards:
    """One process, or DDP: each rank has everything."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def weights(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """See `Shards`."""
        state = self._trainer.model.state_dict()
        return {name: state[name] for name in names}

    def put_weights(self, weights: Tensors) -> None:
        """See `Shards`."""
        own = self._trainer.model.state_dict()
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)

    def optimizer_state(self) -> State:
        """See `Shards`."""
        state: State = self._trainer.optimizer.state_dict()
        return state

    def put_optimizer_state(self, state: State) -> None:
        """See `Shards`."""
        self._trainer.optimizer.load_state_dict(state)


class FullyShardedShards:
    """FSDP2: weights, and what the optimizer keeps for each of them, are cut along their first dimension."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def weights(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """See `Shards`."""
        state = self._trainer.model.state_dict()
        return {name: self._whole(state[name]) for name in names}

    def put_weights(self, weights: Tensors) -> None:
        """See `Shards`."""
        own = self._trainer.model.state_dict()
        with torch.no_grad():
            for name, value in weights.items():
                _local(own[name]).copy_(_local(_part(value, own[name])))

    def optimizer_state(self) -> State:
        """See `Shards`."""
        state = self._trainer.optimizer.state_dict()
        entries = {
            index: {key: self._whole(value) if torch.is_tensor(value) else value for key, value in values.items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": entries}

    def put_optimizer_state(self, state: State) -> None:
        """See `Shards`."""
        groups = self._trainer.optimizer.param_groups
        parameters = dict(enumerate(parameter for group in groups for parameter in group["params"]))
        entries = {
            index: {key: _part(value, parameters[index]) for key, value in values.items()}
            for index, values in state["state"].items()
            if index in parameters
        }
        self._trainer.optimizer.load_state_dict({**state, "state": entries})

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not hasattr(tensor, "full_tensor"):
            return tensor
        # What is kept on the CPU is gathered by way of the device, whose backend the ranks speak by.
        whole: torch.Tensor = tensor.detach().to(self._trainer.args.device).full_tensor()
        return whole.cpu() if self._trainer.args.should_save else torch.empty(0)


def _part(value: Any, like: torch.Tensor) -> Any:
    """This rank's part of a whole tensor, cut as `like` is; anything else as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not torch.is_tensor(value) or value.shape != like.shape:
        return value
    whole = value.to(like.device)
    # Each rank has read the whole tensor: there is nothing to send.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
