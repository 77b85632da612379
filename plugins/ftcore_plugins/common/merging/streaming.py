"""Plans the merged weights: which tensor of the base is copied, and which is made. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers.core_model_loading import dot_natural_key

from ftcore.api import RunError
from ftcore_plugins.common.merging.changes import Change
from ftcore_plugins.common.merging.names import names_in_memory, one_of_tied
from ftcore_plugins.common.merging.refused import RefusedError
from ftcore_plugins.common.merging.shards import Planned
from ftcore_plugins.common.merging.stored import WHOLE, Stored

Whole = Mapping[str, Callable[[], torch.Tensor]]


def plan_copy(stored: Mapping[str, Stored], dtype: torch.dtype) -> dict[str, Planned]:
    """All tensors as they are, weights in `dtype`."""
    return {name: _copied(stored[name], dtype) for name in sorted(stored, key=dot_natural_key)}


def plan_merge(
    stored: Mapping[str, Stored], model: Any, changes: Mapping[str, Change], trained_on: Whole, dtype: torch.dtype
) -> dict[str, Planned]:
    """All tensors that the model reads, under their names in the files, with the changes in them.

    `changes` and `trained_on`, weights that take the place of the base's, are by name in memory. Raises `RunError`
    where a weight that is changed is in no file, and `RefusedError` where the model packs or parts what it reads.
    """
    names = names_in_memory(model, stored)
    planned = {}
    for name in sorted(names, key=dot_natural_key):
        one = one_of_tied(model, names[name])
        change, weight = changes.get(one), trained_on.get(one, stored[name].read)
        if change is None and one not in trained_on:
            planned[name] = _copied(stored[name], dtype)
            continue
        if sum(one_of_tied(model, other) == one for other in names.values()) > 1:
            raise RefusedError(f"{one} is tied, and twice in the files")
        planned[name] = Planned(shape=stored[name].shape, dtype=dtype, pieces=_made(weight, change, dtype))
    _require_all(names, model, {*changes, *trained_on})
    return planned


def _require_all(names: Mapping[str, str], model: Any, wanted: set[str]) -> None:
    missing = wanted - {one_of_tied(model, name) for name in names.values()}
    if missing:
        raise RunError(f"merge: {min(missing)} is in none of the base model's files; take a whole copy of it")


def _made(
    weight: Callable[[], torch.Tensor], change: Change | None, dtype: torch.dtype
) -> Callable[[], Iterator[torch.Tensor]]:
    def pieces() -> Iterator[torch.Tensor]:
        made = weight().to(dtype)
        yield change.apply(made) if change else made

    return pieces


def _copied(stored: Stored, dtype: torch.dtype) -> Planned:
    wanted = dtype if stored.dtype in WHOLE else stored.dtype

    def pieces() -> Iterator[torch.Tensor]:
        return (piece.to(wanted) for piece in stored.pieces())

    return Planned(shape=stored.shape, dtype=wanted, pieces=pieces)
