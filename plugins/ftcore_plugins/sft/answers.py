"""Answers to the prompts of examples, in batches with padding on the left. Imports transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import attrs
import torch
from transformers import GenerationConfig

from ftcore.api import MASKED, Example, PreparedData
from ftcore_plugins.common.generation import stop_tokens


def answer(
    model: Any,
    processor: Any,
    data: PreparedData,
    examples: Sequence[Example],
    max_new_tokens: int,
    *,
    device: Any = None,
    together: bool = False,
    temperature: float = 0.0,
) -> list[str]:
    """One text for each example, up to its end-of-turn token. The model must be in evaluation mode.

    At a `temperature` over 0, tokens are drawn from the whole vocabulary, by torch's random numbers. `device` is where
    it calculates, if its weights lie elsewhere. If it takes several ranks to run, all of them go on until the last has
    its answers `together`.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    batch = left_padded({name: value for name, value in data.collate(prompts(examples)).items() if name != "labels"})
    place = device or model.device
    batch = {name: value.to(place) if torch.is_tensor(value) else value for name, value in batch.items()}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        use_cache=True,
        **_choosing(temperature),
        eos_token_id=stop_tokens(model, data.stops),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else data.end_of_turn,
    )
    with torch.no_grad(), _generating_by(config, model):
        rows = model.generate(**batch, synced_gpus=together)
    new = rows[:, batch["input_ids"].shape[1] :].tolist()
    return [str(tokenizer.decode(_until(row, data.stops), skip_special_tokens=True)) for row in new]


def _choosing(temperature: float) -> dict[str, Any]:
    if not temperature:
        return {"do_sample": False}
    # Without the filters that transformers sets unasked: what the model says, at this temperature.
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


def prompts(examples: Sequence[Example]) -> list[Example]:
    """The examples without their last reply, as a collator takes them."""
    return [
        attrs.evolve(example, input_ids=list(example.prompt_ids), labels=[MASKED] * len(example.prompt_ids))
        for example in examples
    ]


def left_padded(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Move each row's padding to the left, in every tensor of the shape of `input_ids`: answers are appended."""
    attention = batch["attention_mask"].long()
    columns = torch.arange(attention.shape[1])
    last = (attention * columns).max(dim=1).values  # of a real token: nothing moves if padding is on the left
    shift = (attention.shape[1] - 1 - last).unsqueeze(1)
    source = (columns.unsqueeze(0) - shift) % attention.shape[1]
    return {
        name: value.gather(1, source) if torch.is_tensor(value) and value.shape == attention.shape else value
        for name, value in batch.items()
    }


@contextmanager
def _generating_by(config: GenerationConfig, model: Any) -> Iterator[None]:
    """Put `config` in the place of the model's own, which `generate` otherwise fills gaps from: a repetition
    penalty there would change a greedy answer. In place, since wrappers of the model hold the same object."""
    own = vars(model.generation_config)
    kept = dict(own)
    own.clear()
    own.update(vars(config))
    try:
        yield
    finally:
        own.clear()
        own.update(kept)


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, tokens))
