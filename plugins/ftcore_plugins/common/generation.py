"""When a model stops answering."""

from __future__ import annotations

from typing import Any

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def stop_tokens(model: Any, end_of_turn: int) -> list[int]:
    """Every token that ends an answer: the model's own, and the one that it is trained to end with."""
    own = model.generation_config.eos_token_id
    return list(dict.fromkeys([*([own] if isinstance(own, int) else own or []), end_of_turn]))


def stop_at(model: Any, end_of_turn: int) -> None:
    """Make the model's generation end there, also once it is saved."""
    config = model.generation_config
    config.eos_token_id = stop_tokens(model, end_of_turn)
    if not config.do_sample:
        for name in SAMPLING:  # without sampling they do nothing, and transformers refuses to save them
            setattr(config, name, None)
