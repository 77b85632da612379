"""Weights and optimizer state under DeepSpeed's ZeRO, put together and taken apart. Imports DeepSpeed.

ZeRO lays the weights of a parameter group end to end, in float32, and gives each rank a part; so lies what the
optimizer keeps (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054). In stage 3, the model's own weights
are parts, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)

State = Mapping[str, Any]


class ZeroShards:
    """Implements `sharded.Shards`."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def _zero(self) -> Any:
        return self._trainer.optimizer.optimizer  # below accelerate's wrapper

    @property
    def _stage3(self) -> bool:
        return hasattr(self._zero, "fp32_partitioned_groups_flat")

    def weights(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """See `sharded.Shards`."""
        model = self._trainer.model
        parameters, buffers = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers())
        self._settle()
        wholes: dict[int, torch.Tensor] = {}  # tied weights stay one tensor
        found = {}
        for name in names:
            parameter = parameters.get(name)
            if parameter is None:
                found[name] = buffers[name]
                continue
            if id(parameter) not in wholes:
                wholes[id(parameter)] = self._kept(self._whole(parameter))
            found[name] = wholes[id(parameter)]
        return found

    def _whole(self, parameter: Any) -> torch.Tensor:
        if parameter.requires_grad:
            whole: torch.Tensor = safe_get_full_fp32_param(parameter)
            return whole
        with GatheredParameters([parameter]):  # does nothing to one that is whole
            return parameter.detach().clone()

    def _kept(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.detach().cpu() if self._trainer.args.should_save else torch.empty(0)

    def put_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `sharded.Shards`."""
        model = self._trainer.model
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        self._settle()
        for name, value in weights.items():
            if name in buffers:
                buffers[name].copy_(value)
                continue
            self._put_master(parameters[name], value)
            with GatheredParameters([parameters[name]], modifier_rank=0), torch.no_grad():
                parameters[name].copy_(value)

    def _settle(self) -> None:
        """Stage 3 fetches ahead: what an evaluation has left on its way must have come, and gone again."""
        if self._stage3:
            self._zero.empty_partition_cache()

    def _put_master(self, parameter: Any, value: torch.Tensor) -> None:
        if self._stage3:
            self._zero.set_local_hp_param(_own_part(parameter, value), parameter)
        else:
            safe_set_full_fp32_param(parameter, value)

    def optimizer_state(self) -> State:
        """See `sharded.Shards`."""
        self._link()
        like: Mapping[str, Any] = next(iter(self._zero.optimizer.state.values()), {})
        lists = [key for key, value in like.items() if torch.is_tensor(value) and value.dim()]
        numbers = {key: _copy(value) for key, value in like.items() if key not in lists}
        state = {
            index: {
                **numbers,
                **{key: self._kept(safe_get_full_optimizer_state(parameter, key)) for key in lists},
            }
            for index, parameter in enumerate(self._parameters())
        }
        return {"state": state, "param_groups": list(self._groups())}

    def _parameters(self) -> list[Any]:
        return [parameter for group in self._trainer.trained_groups for parameter in group]

    def _groups(self) -> Iterator[dict[str, Any]]:
        """ZeRO's groups hold its flat parts; ours name the parameters by number, as torch's optimizers do."""
        first = 0
        for group, parameters in zip(self._zero.param_groups, self._trainer.trained_groups, strict=True):
            options = {key: value for key, value in group.items() if key != "params"}
            yield {**options, "params": list(range(first, first + len(parameters)))}
            first += len(parameters)

    def put_optimizer_state(self, state: State) -> None:
        """See `sharded.Shards`."""
        sizes = [len(group["params"]) for group in state["param_groups"]]
        if sizes != [len(group) for group in self._trainer.trained_groups]:
            raise ValueError("its parameter groups are of other sizes")
        for group, stored in zip(self._zero.param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in stored.items() if key != "params"})
        if state["state"]:
            self._make_room(state["state"][0])
        for index, parameter in enumerate(self._parameters()):
            for key, value in state["state"].get(index, {}).items():
                if torch.is_tensor(value) and value.dim():
                    self._put(parameter, value, key)

    def _put(self, parameter: Any, value: torch.Tensor, key: str) -> None:
        if self._stage3:
            self._zero.set_local_hp_param(_own_part(parameter, value), parameter, key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _make_room(self, like: Mapping[str, Any]) -> None:
        """ZeRO makes the state in its first step; a resumed run has it before."""
        zero = self._zero
        flats = zero.fp32_partitioned_groups_flat if self._stage3 else zero.single_partition_of_fp32_groups
        for flat in flats:
            zero.optimizer.state[flat] = {
                key: torch.zeros_like(flat) if torch.is_tensor(value) and value.dim() else _copy(value)
                for key, value in like.items()
            }
        self._link()

    def _link(self) -> None:
        """Stage 2 remembers where each weight's part of the state lies as soon as the first group has stepped."""
        if not self._stage3 and self._zero.optimizer.state:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()


def _own_part(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This rank's part of a weight in stage 3; the last one's is filled up with zeros."""
    size = parameter.ds_tensor.ds_numel
    flat = torch.nn.functional.pad(value.flatten(), (0, size * torch.distributed.get_world_size() - value.numel()))
    return flat.narrow(0, size * torch.distributed.get_rank(), size)


def _copy(value: Any) -> Any:
    return value.detach().clone() if torch.is_tensor(value) else value
