"""TRL's trainer, cut down to the steps: what is logged, saved and stopped is the engine's. Imports TRL.

Each override says which method of `transformers.Trainer` or TRL it replaces, and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ftcore.api import MASKED, Control, Decision, PreparedData, RunError, Step, World
from ftcore_plugins.sft import Options, checkpoint, memory
from ftcore_plugins.sft.batches import ITEMS, checked, origins_of
from ftcore_plugins.sft.broken import broken_step, not_a_number
from ftcore_plugins.sft.labelled import LabelledLoss
from ftcore_plugins.sft.layout import LaidOutTrainer
from ftcore_plugins.sft.looking import own_losses
from ftcore_plugins.sft.order import StepOrder
from ftcore_plugins.sft.out_of_memory import SmallerParts, fewer_rows
from ftcore_plugins.sft.ranks import Filled, RankOrder
from ftcore_plugins.sft.rows import TrainingRows
from ftcore_plugins.sft.tally import Tally
from ftcore_plugins.sft.unrounded import unrounded

PLAIN = frozenset({DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU})


class StepwiseTrainer(LaidOutTrainer):
    """Reports every optimizer step to a `Control`, obeys it, and checkpoints without pickle."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        rows: TrainingRows,
        data: PreparedData,
        *,
        args: SFTConfig,
        config: Options,
        world: World,
        rate_factors: Mapping[str, float],
    ) -> None:
        # TRL insists on a `datasets.Dataset` and looks at its first row; our examples take its place below.
        with unrounded(model):
            super().__init__(
                model=model,
                args=args,
                train_dataset=Dataset.from_dict({"row": [0]}),
                data_collator=rows.collate,
                processing_class=processor,
            )
        self.rows = rows.items
        self.train_dataset = rows.items if world.size == 1 else Filled(rows.items)
        self._lengths, self._group_steps = rows.lengths, config.group_steps
        self.held_out, self._collate = data.validation, data.collate
        self.remove_callback(PrinterCallback)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._lay_out(world, rate_factors)
        self.labelled_loss = LabelledLoss(self.model, enabled=config.labelled_logits, device=self.args.device)
        self._own_loss = self._loss_shifts_labels and self.label_smoother is None and not self.aux_loss_enabled
        if self._own_loss:  # it is a share of the whole step's, so the step's tokens must be counted
            self.model_accepts_loss_kwargs = True
        self._short_step = self._own_loss and self._is_plain()
        micro = self.args.per_device_train_batch_size
        fewer = fewer_rows(micro, micro * self.args.gradient_accumulation_steps) if world.size > 1 else None
        self._parts = SmallerParts(rows.collate, self.model.zero_grad, fewer=fewer)
        self._tally = Tally()
        self._step_control: Control | None = None
        self._reported = 0

    def run(self, control: Control, resume_from: Path | None) -> int:
        """Train to the end, or to a stop; return the last step's number."""
        self._step_control, self._reported = control, 0
        self._tally.begin()
        if resume_from is not None:
            checkpoint.require_complete(resume_from, scaler=self.accelerator.scaler is not None)
            self._reported = checkpoint.read_step(resume_from)
            if self._reported >= self.args.max_steps:  # transformers would take one step more
                checkpoint.read_weights(resume_from, self)
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
        own = own_losses(self, self.held_out, self._collate).values()
        nats, tokens = self.ranks.sums(math.fsum(loss.nats for loss in own), sum(loss.tokens for loss in own))
        return {"eval_loss": nats / tokens} if tokens else {}

    # Steps

    def get_train_dataloader(self) -> Any:
        """Trainer's, which deals whole micro-batches to the ranks, and some rows twice to come out even."""
        processes, self.accelerator.state.num_processes = self.accelerator.state.num_processes, 1
        try:
            return super().get_train_dataloader()
        finally:
            self.accelerator.state.num_processes = processes

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:  # noqa: ARG002
        """Trainer's random order, with less padding; of several ranks, this one's share."""
        rows, seed = self.get_total_train_batch_size(self.args), self.args.data_seed
        order = StepOrder(self._lengths, rows, seed, grouped=self._group_steps)
        return order if self.ranks.size == 1 else RankOrder(order, rows, self._train_batch_size, self.ranks)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Trainer's; it also starts the step's clock and takes out what only we read."""
        with self._tally.waiting():
            batches, items = super().get_batch_samples(map(checked, epoch_iterator), num_batches, device)
        step = [batch.pop(ITEMS) for batch in batches]
        self._parts.begin(step)
        self._tally.origins = [origin for items in step for origin in origins_of(items)]
        # Trainer leaves them uncounted for a model that does not take the count into its loss.
        counts = [int((batch["labels"][..., 1:] != MASKED).sum()) for batch in batches] if items is None else [items]
        self._tally.tokens = sum(counts)
        return batches, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Trainer's, without its walk over all modules: nothing leaves training mode between two steps."""
        if not self._short_step:
            return self._parts.whole(
                lambda: super(StepwiseTrainer, self).training_step(model, inputs, num_items_in_batch)
            )

        def forward_and_backward(batch: Mapping[str, Any]) -> torch.Tensor:
            loss = self.compute_loss(model, self._prepare_inputs(batch), num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
            return loss.detach()

        return self._parts.take(inputs, forward_and_backward)

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

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Trainer's, called right before the optimizer steps: the last moment to refuse a broken gradient."""
        norm = super()._get_grad_norm(model, grad_norm)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        # The norm is over all ranks; so they find together that it is broken, and each may look for its own loss.
        # The scaler of fp16 skips such steps by itself, and expects some.
        broken = not math.isfinite(norm) and self.accelerator.scaler is None
        if broken or not torch.isfinite(self._tr_loss):
            own = (self._tr_loss.item(), self._tally.origins)
            parts = self.ranks.gathered(own) if broken else [own]
            stepped = self.is_deepspeed_enabled  # its backward pass steps, too
            raise not_a_number(broken_step(self.state.global_step + 1, norm, parts, stepped=stepped), self.args)
        return norm

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
        decision = self.ranks.agreed(control.step_ended(self._step(number, tr_loss, grad_norm, learning_rate)))
        tr_loss.zero_()
        if decision.evaluate:
            more = self.ranks.agreed(control.evaluated(number, self.held_out_metrics()))
            decision = Decision(checkpoint=decision.checkpoint or more.checkpoint, stop=decision.stop or more.stop)
        if decision.checkpoint:
            self._commit(control, number)
        self.control.should_training_stop |= decision.stop
        self._tally.begin()

    def _commit(self, control: Control, number: int) -> None:
        """The main rank makes the folder before the others write to it, and commits it once all of them have."""
        state = checkpoint.trained_state(self)
        with ExitStack() as stack:
            if self.ranks.rank == 0:
                folder = stack.enter_context(control.checkpoint(number))
            self.ranks.meet()
            if self.ranks.rank:
                folder = stack.enter_context(control.checkpoint(number))
            try:
                checkpoint.write_checkpoint(folder, self, state)
            except Exception:
                self.ranks.sums(1)
                raise
            if sum(self.ranks.sums(0)):
                raise RunError(f"step {number}: another process could not write its part of the checkpoint")

    def _step(self, number: int, tr_loss: torch.Tensor, grad_norm: float, learning_rate: float | None) -> Step:
        loss = self.ranks.sums(tr_loss.item())[0] / self.ranks.size
        metrics = {
            "loss": loss,
            "learning_rate": float(learning_rate or 0.0) / self.optimizer.param_groups[0]["rate_factor"],
            "grad_norm": grad_norm,
            **self._tally.metrics(),
            "memory": memory.peak(self.args.device),
        }
        return Step(number=number, total=self.args.max_steps, epoch=float(self.state.epoch or 0.0), metrics=metrics)
