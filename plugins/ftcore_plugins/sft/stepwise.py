"""TRL's trainer, cut down to the steps: what is logged, saved and stopped is the engine's. Imports TRL.

Each override says which method of `transformers.Trainer` or TRL it replaces, and why.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer_pt_utils import nested_gather
from trl import SFTConfig, SFTTrainer

from ftcore.api import MASKED, Control, PreparedData, RunError, Step
from ftcore_plugins.sft import Options, checkpoint
from ftcore_plugins.sft.batches import ORIGINS, HeldOut, checked
from ftcore_plugins.sft.labelled import LabelledLoss
from ftcore_plugins.sft.order import StepOrder
from ftcore_plugins.sft.randomness import undisturbed
from ftcore_plugins.sft.rows import TrainingRows

PLAIN = frozenset({DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU})


class StepwiseTrainer(SFTTrainer):  # type: ignore[misc]
    """Reports every optimizer step to a `Control`, obeys it, and checkpoints without pickle."""

    def __init__(
        self, model: Any, processor: Any, rows: TrainingRows, data: PreparedData, *, args: SFTConfig, config: Options
    ) -> None:
        # TRL insists on a `datasets.Dataset` and looks at its first row; our examples take its place below.
        stand_in = Dataset.from_dict({"row": [0]})
        super().__init__(
            model=model,
            args=args,
            train_dataset=stand_in,
            data_collator=rows.collate,
            processing_class=processor,
        )
        self.train_dataset, self._lengths, self._group_steps = rows.items, rows.lengths, config.group_steps
        self.held_out = HeldOut(data.validation, args.per_device_train_batch_size, data.collate)
        self.remove_callback(PrinterCallback)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # master weights: TRL makes them bfloat16 on a quantized model
                parameter.data = parameter.data.float()
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.labelled_loss = LabelledLoss(self.model, enabled=config.labelled_logits)
        self._own_loss = self._loss_shifts_labels and self.label_smoother is None and not self.aux_loss_enabled
        if self._own_loss:  # it is a share of the whole step's, so the step's tokens must be counted
            self.model_accepts_loss_kwargs = True
        self._short_step = self._own_loss and self._is_plain()
        self._step_control: Control | None = None
        self._origins: list[str] = []
        self._tokens = 0
        self._reported = 0
        self._began: float | None = None

    def run(self, control: Control, resume_from: Path | None) -> int:
        """Train to the end, or to a stop; return the last step's number."""
        self._step_control, self._reported, self._began = control, 0, None
        if resume_from is not None:
            checkpoint.require_complete(
                resume_from, process=self.args.process_index, scaler=self.accelerator.scaler is not None
            )
            self._reported = checkpoint.read_step(resume_from)
            if self._reported >= self.args.max_steps:  # transformers would take one step more
                checkpoint.read_weights(resume_from, self.model)
                return self._reported
        self.model.train()
        self.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        return int(self.state.global_step)

    def _is_plain(self) -> bool:
        """Whether a step is no more than forward, backward and the optimizer."""
        args = self.args
        modal = any(word in str(args.optim) for word in ("schedule_free", "lomo"))
        extras = modal or args.activation_offloading or args.torch_empty_cache_steps
        return self.accelerator.distributed_type in PLAIN and not extras

    def _send_telemetry(self) -> None:
        """TRL's, which tells its hub about every run; this one tells nobody."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's; the engine writes the metrics."""

    def held_out_metrics(self) -> dict[str, float]:
        """`eval_loss` in nats per trained token of the held-out rows; empty without such rows."""
        total, tokens = 0.0, 0
        with undisturbed(self.model), torch.no_grad(), self.accelerator.autocast():
            for batch in self.held_out:
                total += self.labelled_loss(self.model, self._prepare_inputs(batch)).item()
                tokens += int((batch["labels"][:, 1:] != MASKED).sum())
        return {"eval_loss": total / tokens} if tokens else {}

    # Loading: called by `train`, in this order

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trainer's reads whole models, or adapters by PEFT; ours is exact for both."""
        checkpoint.read_weights(Path(resume_from_checkpoint), model or self.model)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles both, and goes on with a fresh state when they are missing."""
        if checkpoint_folder is not None:
            checkpoint.read_optimizer_and_scheduler(Path(checkpoint_folder), self.optimizer, self.lr_scheduler)

    def _load_scaler(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles it."""
        if checkpoint_folder is not None and self.accelerator.scaler is not None:
            checkpoint.read_scaler(Path(checkpoint_folder), self.accelerator.scaler)

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles it; called once the batches before the checkpoint have been skipped."""
        if checkpoint_folder is not None:
            checkpoint.read_random_state(Path(checkpoint_folder), self.args.process_index)

    # Steps

    def _get_train_sampler(self, train_dataset: Any = None) -> StepOrder:  # noqa: ARG002
        """Trainer's random order, with less padding."""
        rows, seed = self.get_total_train_batch_size(self.args), self.args.data_seed
        return StepOrder(self._lengths, rows, seed, grouped=self._group_steps)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Trainer's; it also starts the step's clock and takes out what only we read."""
        if self._began is None:
            self._began = time.perf_counter()
        batches, items = super().get_batch_samples(map(checked, epoch_iterator), num_batches, device)
        self._origins = [origin for batch in batches for origin in batch.pop(ORIGINS)]
        # Trainer leaves them uncounted for a model that does not take the count into its loss.
        counts = [int((batch["labels"][..., 1:] != MASKED).sum()) for batch in batches] if items is None else [items]
        self._tokens = sum(counts)
        return batches, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Trainer's, without its walk over all modules: nothing leaves training mode between two steps."""
        if not self._short_step:
            return super().training_step(model, inputs, num_items_in_batch)
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(loss)
        return loss.detach()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean over the trained tokens of the whole step; TRL's adds entropy and accuracy of every token."""
        if not self._own_loss or return_outputs:
            return super(SFTTrainer, self).compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.labelled_loss(model, inputs) / num_items_in_batch
        # The count is over all processes, whose gradients are averaged: as in `Trainer.compute_loss`.
        world = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss * world if world > 1 else loss

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Trainer counts parameters for every batch; nobody reads the sum."""
        return 0

    def _clip_grad_norm(self, model: Any) -> Any:
        """Trainer's, but over the trained parameters rather than all of them."""
        if not self._short_step:
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's, called right before the optimizer steps: the last moment to refuse a broken gradient."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._require_finite("loss", self._tr_loss)
        if self.accelerator.scaler is None:  # the scaler of fp16 skips such steps by itself, and expects some
            self._require_finite("gradient norm", torch.as_tensor(norm))
        return norm

    def _require_finite(self, what: str, value: torch.Tensor) -> None:
        if torch.isfinite(value):
            return
        rows = ", ".join(self._origins)
        step = self.state.global_step + 1
        raise RunError(f"step {step}: the {what} is {value.item()}, before the optimizer stepped; its rows: {rows}")

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: Any,
        *_: Any,
        learning_rate: float | None = None,
        **__: Any,
    ) -> None:
        """Trainer's place for what follows a step: report it, then do what the engine decides."""
        number = int(self.state.global_step)
        if number == self._reported or self._step_control is None:
            return  # called again at the end of an epoch
        control, self._reported = self._step_control, number
        decision = control.step_ended(self._step(number, tr_loss, grad_norm, learning_rate))
        tr_loss.zero_()
        if decision.evaluate:
            control.evaluated(number, self.held_out_metrics())
        if decision.checkpoint:
            with control.checkpoint(number) as folder:
                checkpoint.write_checkpoint(folder, self)
        self.control.should_training_stop |= decision.stop
        self._began = None

    def _step(self, number: int, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: float | None) -> Step:
        loss = nested_gather(tr_loss, self.args.parallel_mode).mean().item()
        seconds = time.perf_counter() - (self._began or 0.0)
        tokens = float(self._tokens)
        metrics = {
            "loss": float(loss),
            "learning_rate": float(learning_rate or 0.0),
            "grad_norm": float(grad_norm),
            "tokens": tokens,
            "tokens_per_second": tokens / max(seconds, 1e-9),
        }
        return Step(number=number, total=self.args.max_steps, epoch=float(self.state.epoch or 0.0), metrics=metrics)
