"""What a loaded model calls the tensors of its files, which transformers renames as it reads. Imports transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from ftcore_plugins.common.merging.refused import RefusedError


def names_in_memory(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """The name in memory of each name in the files; those that the model has no use for are left out.

    `model` may be on the meta device. Raises `RefusedError` where it packs several tensors into one as it reads them.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    known, found = model.state_dict(), {}
    for name in stored:
        renamed, packed = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if renamed not in known and name in known:
            renamed, packed = name, None
        if packed is not None and renamed in known:
            raise RefusedError(f"{name} is packed with others when the model is loaded")
        if renamed in known:
            found[name] = renamed
    return found


def one_of_tied(model: Any, name: str) -> str:
    """The name that stands for all names of a weight, where a model has it in several places."""
    return str(model.all_tied_weights_keys.get(name, name))
