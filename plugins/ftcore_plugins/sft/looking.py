"""The losses and answers of rows that are not trained, in batches with little padding, by all ranks. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ftcore.api import Collate, Example, PreparedData, RowLoss
from ftcore_plugins.sft.answers import answer
from ftcore_plugins.sft.batches import ByLength
from ftcore_plugins.sft.out_of_memory import SMALLER_BATCH, memory_told
from ftcore_plugins.sft.randomness import undisturbed


def own_losses(trainer: Any, examples: Sequence[Example], collate: Collate) -> dict[int, RowLoss]:
    """The loss of each example that falls to this rank, by its place."""
    found: dict[int, RowLoss] = {}
    batches = ByLength(examples, trainer.args.per_device_eval_batch_size, _tokens)
    with memory_told(SMALLER_BATCH), undisturbed(trainer.model), torch.no_grad(), trainer.accelerator.autocast():
        for places, own in batches.of(trainer.ranks):
            batch = trainer._prepare_inputs(collate([examples[place] for place in places]))
            losses = trainer.labelled_loss.of_rows(trainer.running_model, batch)
            found |= dict(zip(places, losses, strict=True)) if own else {}
    return found


def own_answers(
    trainer: Any,
    processor: Any,
    data: PreparedData,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> dict[int, str]:
    """The answer to each prompt that falls to this rank, by its place; drawn by `seed` at a temperature over 0."""
    found: dict[int, str] = {}
    batches = ByLength(examples, trainer.args.per_device_eval_batch_size, _prompt_tokens)
    with memory_told(SMALLER_BATCH), undisturbed(trainer.model), trainer.accelerator.autocast():
        if temperature:
            torch.manual_seed(seed)
        for places, own in batches.of(trainer.ranks):
            texts = answer(
                trainer.model,
                processor,
                data,
                [examples[place] for place in places],
                max_new_tokens,
                device=trainer.args.device,
                together=trainer.is_sharded and trainer.ranks.size > 1,
                temperature=temperature,
            )
            found |= dict(zip(places, texts, strict=True)) if own else {}
    return found


def _tokens(example: Example) -> int:
    return len(example.input_ids)


def _prompt_tokens(example: Example) -> int:
    return len(example.prompt_ids)
