"""The optimizer's parameter groups: which weights decay, and how fast each learns. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftcore.api import RunError


def parameter_groups(
    named: Iterable[tuple[str, Any]], decaying: Iterable[str], factors: Mapping[str, float], rate: float, decay: float
) -> list[dict[str, Any]]:
    """One group for each rate and weight decay among the trained parameters, that of the plain rate first.

    `factors` are `Loaded.rate_factors`. Raises `RunError` for one of them that matches no trained parameter.
    """
    decays, groups, unused = set(decaying), dict[tuple[float, bool], list[Any]](), set(factors)
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        pattern = next((each for each in factors if re.fullmatch(each, name)), None)
        factor = 1.0 if pattern is None else factors[pattern]
        groups.setdefault((factor, name in decays), []).append(parameter)
        unused.discard(pattern or "")
    if unused:
        raise RunError(f"no trained weight is called {min(unused)!r}, whose learning rate was to differ")
    order = sorted(groups, key=lambda key: (key[0] != 1.0, key[0], not key[1]))
    return [
        {"params": groups[key], "lr": rate * key[0], "weight_decay": decay if key[1] else 0.0, "rate_factor": key[0]}
        for key in order
    ]
