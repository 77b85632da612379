"""The `Trainer` of ftcore on TRL's. Imports TRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.trainer_utils import align_special_tokens

from ftcore.api import Control, Example, Loaded, PreparedData, RowLoss, Run, RunError
from ftcore_plugins.common.generation import stop_at
from ftcore_plugins.common.hub import reads_images
from ftcore_plugins.common.quiet import no_progress_bars, quiet_logger
from ftcore_plugins.sft import Options
from ftcore_plugins.sft.arguments import sft_config
from ftcore_plugins.sft.kernels import compile_layers
from ftcore_plugins.sft.loading import read
from ftcore_plugins.sft.looking import own_answers, own_losses
from ftcore_plugins.sft.out_of_memory import memory_told
from ftcore_plugins.sft.packing import Packed
from ftcore_plugins.sft.packing_proof import prove_packing
from ftcore_plugins.sft.randomness import undisturbed
from ftcore_plugins.sft.ranks import require_world
from ftcore_plugins.sft.rows import training_rows
from ftcore_plugins.sft.saving import write
from ftcore_plugins.sft.sharded import gathered_at_once
from ftcore_plugins.sft.stepwise import StepwiseTrainer

T = TypeVar("T")


def make_trainer(run: Run, loaded: Loaded, data: PreparedData, config: Options, args: Mapping[str, Any]) -> SftTrainer:
    """See `Sft.make_trainer`. Raises `RunError` when nothing is trainable, for rows that cannot be packed though
    they shall be, or for arguments that TRL refuses."""
    if not any(parameter.requires_grad for parameter in loaded.model.parameters()):
        raise RunError("the model has no trainable weights; turn on an adapter, such as [plugin.lora]")
    if run.profile.hardware.threads:  # where torch was imported before the run, the environment came too late
        torch.set_num_threads(run.profile.hardware.threads)
    rows = training_rows(run, loaded.model, data)
    # A row without an image leaves the vision tower unused, for which DDP would wait.
    unused = {"ddp_find_unused_parameters": reads_images(loaded.model.config)}
    settings = sft_config(run, len(rows), config, {**unused, **args, **_fsdp_layers(loaded.model, args)})
    with quiet_logger("transformers.trainer_utils"):  # it tells that it aligns tokens, which is what we ask for
        align_special_tokens(loaded.model, loaded.processor)
    stop_at(loaded.model, data.stops)
    try:
        inner = StepwiseTrainer(
            loaded.model,
            loaded.processor,
            rows,
            data,
            args=settings,
            config=config,
            world=run.world,
            rate_factors=loaded.rate_factors,
        )
    except ValueError as error:
        raise RunError(f"the trainer refuses this model: {str(error).partition(chr(10))[0]}") from error
    require_world(run.world, inner.accelerator, settings)
    inner.shard()
    if config.compile:
        compile_layers(loaded.model)
    return SftTrainer(run, inner, loaded, data)


def _fsdp_layers(model: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    layers = gathered_at_once(model)
    if not args.get("fsdp") or not layers:
        return {}
    return {"fsdp_config": {"transformer_layer_cls_to_wrap": layers, **args.get("fsdp_config", {})}}


class SftTrainer:
    """Implements `ftcore.api.Trainer`."""

    def __init__(self, run: Run, inner: StepwiseTrainer, loaded: Loaded, data: PreparedData) -> None:
        self._run = run
        self.inner = inner
        self._loaded = loaded
        self._data = data
        self._drawn = 0

    @property
    def total_steps(self) -> int:
        """See `ftcore.api.Trainer`."""
        return int(self.inner.args.max_steps)

    def train(self, control: Control, checkpoint: Path | None) -> int:
        """See `ftcore.api.Trainer`. Raises `RunError` when a loss or a gradient is not finite, and before
        the first step for a model whose packed rows see each other.

        `tokens` of a step are those that it trains, over all processes, and `tokens_per_second` is
        counted in them; evaluations and checkpoints are left out of the time. Raises `OutOfMemoryError` when
        memory runs out and a smaller micro-batch does not help.
        """
        self._prove_packing()
        with no_progress_bars(), memory_told():
            return self.inner.run(control, checkpoint)

    def _prove_packing(self) -> None:
        inner = self.inner
        if isinstance(inner.rows, Packed):
            with undisturbed(inner.model), torch.no_grad(), inner.accelerator.autocast():
                prove_packing(inner.running_model, inner.labelled_loss, inner.rows, inner.data_collator)

    def evaluate(self) -> Mapping[str, float]:
        """See `ftcore.api.Trainer`; empty without held-out rows."""
        return self.inner.held_out_metrics()

    def losses(self, examples: Sequence[Example]) -> Sequence[RowLoss]:
        """See `ftcore.api.Trainer`. Rows are not packed, whatever they are trained in."""
        return self._in_order(own_losses(self.inner, examples, self._data.collate), len(examples))

    def generate(self, examples: Sequence[Example], max_new_tokens: int, temperature: float = 0.0) -> Sequence[str]:
        """See `ftcore.api.Trainer`. What is drawn follows from the run's seed and how often it was asked before."""
        texts = own_answers(
            self.inner,
            self._loaded.processor,
            self._data,
            examples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=self._next_seed() if temperature else 0,
        )
        return self._in_order(texts, len(examples))

    def _in_order(self, own: Mapping[int, T], number: int) -> list[T]:
        """What the ranks found out, each about its own examples, for all of them."""
        everyones = {place: found for part in self.inner.ranks.gathered(own) for place, found in part.items()}
        return [everyones[place] for place in range(number)]

    def _next_seed(self) -> int:
        self._drawn += 1
        return self._run.profile.run.seed + self._drawn * self.inner.ranks.size + self.inner.ranks.rank

    def load(self, folder: Path) -> None:
        """See `ftcore.api.Trainer`. Raises `RunError` when the weights are not this model's, or no numbers."""
        read(folder, self._run, self.inner, self._loaded)

    def save(self, folder: Path) -> Loaded:
        """See `ftcore.api.Trainer`."""
        return write(folder, self._run, self.inner, self._loaded)
