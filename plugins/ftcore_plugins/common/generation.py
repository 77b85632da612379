"""When a model stops answering."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def own_stops(model: Any) -> list[int]:
    """Every token that ends an answer of the model as it is saved."""
    own = model.generation_config.eos_token_id
    return [own] if isinstance(own, int) else list(own or [])


def stop_tokens(model: Any, ends: Iterable[int]) -> list[int]:
    """The same, and those that it is trained to end with."""
    return list(dict.fromkeys([*own_stops(model), *ends]))


def stop_at(model: Any, ends: Iterable[int]) -> None:
    """Make the model's generation end there, also once it is saved."""
    config = model.generation_config
    config.eos_token_id = stop_tokens(model, ends)
    if not config.do_sample:
        for name in SAMPLING:  # without sampling they do nothing, and transformers refuses to save them
            setattr(config, name, None)
