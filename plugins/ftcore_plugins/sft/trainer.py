"""The `Trainer` of ftcore on TRL's. Imports TRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import align_special_tokens

from ftcore.api import Control, Example, Loaded, PreparedData, Run, RunError
from ftcore_plugins.common.generation import stop_at
from ftcore_plugins.common.quiet import no_progress_bars, quiet_logger
from ftcore_plugins.common.staging import staged
from ftcore_plugins.sft import Options
from ftcore_plugins.sft.answers import answer
from ftcore_plugins.sft.arguments import sft_config
from ftcore_plugins.sft.packing import Packed
from ftcore_plugins.sft.packing_proof import prove_packing
from ftcore_plugins.sft.randomness import undisturbed
from ftcore_plugins.sft.rows import training_rows
from ftcore_plugins.sft.stepwise import StepwiseTrainer


def make_trainer(run: Run, loaded: Loaded, data: PreparedData, config: Options, args: Mapping[str, Any]) -> SftTrainer:
    """See `Sft.make_trainer`. Raises `RunError` when nothing is trainable, for rows that cannot be packed though
    they shall be, or for arguments that TRL refuses."""
    if not any(parameter.requires_grad for parameter in loaded.model.parameters()):
        raise RunError("the model has no trainable weights; turn on an adapter, such as [plugin.lora]")
    if run.profile.hardware.threads:  # where torch was imported before the run, the environment came too late
        torch.set_num_threads(run.profile.hardware.threads)
    rows = training_rows(run, loaded.model, data)
    settings = sft_config(run, len(rows), config, args)
    with quiet_logger("transformers.trainer_utils"):  # it tells that it aligns tokens, which is what we ask for
        align_special_tokens(loaded.model, loaded.processor)
    stop_at(loaded.model, data.end_of_turn)
    try:
        inner = StepwiseTrainer(loaded.model, loaded.processor, rows, data, args=settings, config=config)
    except ValueError as error:
        raise RunError(f"the trainer refuses this model: {str(error).partition(chr(10))[0]}") from error
    return SftTrainer(inner, loaded, data)


class SftTrainer:
    """Implements `ftcore.api.Trainer`."""

    def __init__(self, inner: StepwiseTrainer, loaded: Loaded, data: PreparedData) -> None:
        self.inner = inner
        self._loaded = loaded
        self._data = data

    @property
    def total_steps(self) -> int:
        """See `ftcore.api.Trainer`."""
        return int(self.inner.args.max_steps)

    def train(self, control: Control, checkpoint: Path | None) -> int:
        """See `ftcore.api.Trainer`. Raises `RunError` when a loss or a gradient is not finite, and before
        the first step for a model whose packed rows see each other.

        `tokens` of a step are those that it trains, over all processes, and `tokens_per_second` is
        counted in them; evaluations and checkpoints are left out of the time.
        """
        self._prove_packing()
        with no_progress_bars():
            return self.inner.run(control, checkpoint)

    def _prove_packing(self) -> None:
        inner = self.inner
        if isinstance(inner.train_dataset, Packed):
            with undisturbed(inner.model), torch.no_grad(), inner.accelerator.autocast():
                prove_packing(inner.model, inner.labelled_loss, inner.train_dataset, inner.data_collator)

    def evaluate(self) -> Mapping[str, float]:
        """See `ftcore.api.Trainer`; empty without held-out rows."""
        return self.inner.held_out_metrics()

    def generate(self, examples: Sequence[Example], max_new_tokens: int) -> Sequence[str]:
        """See `ftcore.api.Trainer`."""
        model, rows, texts = self.inner.model, self.inner.args.per_device_train_batch_size, list[str]()
        with undisturbed(model), self.inner.accelerator.autocast():
            for start in range(0, len(examples), rows):
                part = examples[start : start + rows]
                texts += answer(model, self._loaded.processor, self._data, part, max_new_tokens)
        return texts

    def save(self, folder: Path) -> Loaded:
        """See `ftcore.api.Trainer`."""
        if not self.inner.args.should_save:
            return self._loaded
        model = self.inner.model
        # The base keeps its embeddings; to look whether they grew, PEFT would ask the hub for its config.
        options = {"save_embedding_layers": False} if self._loaded.adapter else {}
        with staged(folder) as staging, no_progress_bars():
            model.save_pretrained(staging, **options)
            model.generation_config.save_pretrained(staging)
            self._loaded.processor.save_pretrained(staging)
            (staging / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        return self._loaded
