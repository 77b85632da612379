"""What an adapter does to the weights of a model, one by one, as PEFT does it bit for bit. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import torch
from peft.utils.other import get_pattern_key
from transformers.pytorch_utils import Conv1D

from ftcore_plugins.common.merging.adapter import Adapter
from ftcore_plugins.common.merging.names import one_of_tied
from ftcore_plugins.common.merging.refused import RefusedError

PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
}


class Change(Protocol):
    """Makes the tuned weight of the base model's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it is for."""

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The tuned weight in the type of `weight`, which it may overwrite."""


@attrs.frozen(kw_only=True, eq=False)
class LowRank:
    """Adds scale · B·A, of shape (outputs, inputs), or its transpose (https://arxiv.org/abs/2106.09685).

    The product is in float32, and the sum is rounded to the type of the weight; `rounded` says that so is what is
    added, before. PEFT does that for embeddings.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool
    rounded: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(outputs, inputs), or (inputs, outputs)."""
        upright = (self.b.shape[0], self.a.shape[1])
        return upright[::-1] if self.transposed else upright

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The sum, in the place of the weight."""
        share = self.b.float() @ self.a.float()
        share = (share.T if self.transposed else share).mul_(self.scale)
        return weight.add_(share.to(weight.dtype) if self.rounded else share)


@attrs.frozen(kw_only=True, eq=False)
class Instead:
    """Takes the place of a weight: its layer was trained whole."""

    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        return tuple(self.value.shape)

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The value in the type of the weight."""
        return self.value.to(weight.dtype)


def changes_of(adapter: Adapter, model: Any, base: str) -> dict[str, Change]:
    """Each change by the name of its weight in memory; `model` may be on the meta device.

    Raises `RunError` for an adapter of another model, and `RefusedError` for one that is not merged here.
    """
    low_rank, whole, others = _sorted_out(adapter, model)
    parameters = model.state_dict()
    changes: dict[str, Change] = {name: Instead(value=value) for name, value in whole.items()}
    for module, parts in low_rank.items():
        if f"{module}.weight" not in parameters:
            raise adapter.foreign(base, f"it changes {module}, and there is no such layer")
        changes[f"{module}.weight"] = _low_rank(adapter, module, model.get_submodule(module), parts)
    for name, change in changes.items():
        _require_place(adapter, base, name, change, parameters)
    if others:
        raise RefusedError(f"it has {others[0]}")
    return _once_each(adapter, model, changes)


def _sorted_out(
    adapter: Adapter, model: Any
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor], list[str]]:
    """Matrices by their layer, whole weights, and the names of what is neither."""
    low_rank: dict[str, dict[str, torch.Tensor]] = {}
    whole, others = {}, []
    modules = adapter.config.get("modules_to_save") or []
    # PEFT saves a weight that is trained whole, and stays tied, under each of its names.
    kept = _tied(model) if adapter.config.get("ensure_weight_tying") else set()
    for name, tensor in adapter.tensors.items():
        end = next((end for end in PARTS if name.endswith(end)), "")
        if end:
            low_rank.setdefault(name.removesuffix(end), {})[PARTS[end]] = tensor
        elif name in kept or any(f".{module}." in f".{name}" for module in modules):
            whole[name] = tensor
        else:
            others.append(name)
    return low_rank, whole, others


def _tied(model: Any) -> set[str]:
    return {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}


def _low_rank(adapter: Adapter, name: str, module: Any, parts: Mapping[str, torch.Tensor]) -> LowRank:
    if set(parts) != {"a", "b"}:
        raise adapter.foreign("any model", f"one of the two matrices of {name} is missing; export from a checkpoint")
    if not isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D):
        raise RefusedError(f"{name} is no linear layer but a {type(module).__name__}")
    a, b = (tuple(parts[side].shape) for side in "ab")
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:  # noqa: PLR2004
        why = f"the matrices of {name} do not fit together, with {_size(a)} and {_size(b)} values"
        raise adapter.foreign("any model", f"{why}; export from a checkpoint")
    embeds, scale = isinstance(module, torch.nn.Embedding), _scale(adapter, name, a[0])
    return LowRank(**parts, scale=scale, transposed=embeds or isinstance(module, Conv1D), rounded=embeds)


def _scale(adapter: Adapter, name: str, rank: int) -> float:
    config = adapter.config
    ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    expected = ranks.get(get_pattern_key(ranks, name), config["r"])
    if rank != expected:
        raise adapter.foreign("its own settings", f"{name} has rank {rank} and not {expected}; export again")
    alpha = alphas.get(get_pattern_key(alphas, name), config["lora_alpha"])
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _require_place(
    adapter: Adapter, base: str, name: str, change: Change, parameters: Mapping[str, torch.Tensor]
) -> None:
    if name not in parameters:
        raise adapter.foreign(base, f"it changes {name}, and there is no such weight")
    shape = tuple(parameters[name].shape)
    if change.shape != shape:
        raise adapter.foreign(base, f"its part for {name} is for {_size(change.shape)} values and not {_size(shape)}")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _once_each(adapter: Adapter, model: Any, changes: Mapping[str, Change]) -> dict[str, Change]:
    """Changes by the one name that stands for a tied weight. Raises `RefusedError` where tied weights part."""
    found: dict[str, Change] = {}
    parts = _tied(model) if not adapter.config.get("ensure_weight_tying") else set()
    for name, change in changes.items():
        one = one_of_tied(model, name)
        if name in parts and isinstance(change, Instead):
            raise RefusedError(f"{name} is trained whole and no longer tied")
        if one in found and not _same(found[one], change):
            raise RefusedError(f"{name} is tied, and adapted twice")
        found[one] = change
    return found


def _same(first: Change, second: Change) -> bool:
    return isinstance(first, Instead) and isinstance(second, Instead) and torch.equal(first.value, second.value)
