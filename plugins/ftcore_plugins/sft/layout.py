"""Where weights and optimizer state lie, and how both come back from a checkpoint. Imports TRL.

Each override says which method of `transformers.Trainer` it replaces, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from trl import SFTTrainer

from ftcore.api import World
from ftcore_plugins.common.quiet import no_deprecations, quiet_logger
from ftcore_plugins.sft import checkpoint
from ftcore_plugins.sft.ranks import Ranks
from ftcore_plugins.sft.rates import parameter_groups
from ftcore_plugins.sft.sharded import shards_of

SHARDED = frozenset({DistributedType.FSDP, DistributedType.DEEPSPEED})


class LaidOutTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on a model that lies on one rank, on each of them, or in parts on all."""

    def _lay_out(self, world: World, rate_factors: Mapping[str, float]) -> None:
        self.ranks = Ranks(rank=world.rank, size=world.size, device=self.args.device)
        torch.manual_seed(self.args.seed + world.rank)  # each rank its own dropout
        self._rate_factors = rate_factors
        self.trained_groups: list[list[Any]] = []
        self.shapes = _shapes(self.model)
        self.shards = shards_of(self)
        self._sharded: Any = None

    @property
    def is_sharded(self) -> bool:
        """Whether the model lies on the ranks in parts."""
        return self._sharded is not None

    @property
    def running_model(self) -> Any:
        """What a batch is given to: the model, or where it is sharded, what gathers its weights."""
        return self.model_wrapped if self._sharded else self.model

    def shard(self) -> None:
        """Share the model out among the ranks, if the strategy does so: what is larger than a device runs only then.

        Trainer does it at the start of training, which is after the first evaluation.
        """
        if self.accelerator.distributed_type in SHARDED:
            with quiet_logger("accelerate.accelerator"):  # it counts micro-batches of its own, which we do not use
                self._sharded, _ = super()._prepare_for_training(self.args.max_steps, None, None)
            self.accelerator.free_memory = lambda *_: None  # it would take the strategy down again

    def _prepare_for_training(self, max_steps: int, loader: Any, resume_from_checkpoint: str | None) -> tuple[Any, Any]:
        """Trainer's; of a sharded model, only the state of a checkpoint is left to read."""
        if not self._sharded:
            with no_deprecations():  # of DDP's arguments, which accelerate gives
                prepared: tuple[Any, Any] = super()._prepare_for_training(max_steps, loader, resume_from_checkpoint)
            return prepared
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        self.callback_handler.train_dataloader = loader
        return self._sharded, loader

    def create_optimizer(self, model: Any = None) -> Any:
        """Trainer's, with a group for each learning rate."""
        if self.optimizer is None:
            own = self.model if model is None else model
            decaying, args = self.get_decay_parameter_names(own), self.args
            groups = parameter_groups(
                own.named_parameters(), decaying, self._rate_factors, args.learning_rate, args.weight_decay
            )
            self.trained_groups = [list(group["params"]) for group in groups]
            kind, options = self.get_optimizer_cls_and_kwargs(args, own)
            self.optimizer_cls_and_kwargs = kind, {"params": groups, **options}
        return super().create_optimizer(model)

    # Loading: called by `train`, in this order

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        """Trainer's reads whole models, or adapters by PEFT; ours is exact for both."""
        checkpoint.read_weights(Path(resume_from_checkpoint), self)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles both, and goes on with a fresh state when they are missing."""
        if checkpoint_folder is not None:
            checkpoint.read_optimizer_and_scheduler(Path(checkpoint_folder), self)

    def _load_scaler(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles it."""
        if checkpoint_folder is not None and self.accelerator.scaler is not None:
            checkpoint.read_scaler(Path(checkpoint_folder), self.accelerator.scaler)

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        """Trainer's unpickles it; called once the batches before the checkpoint have been skipped."""
        if checkpoint_folder is not None:
            checkpoint.read_random_state(Path(checkpoint_folder), self.ranks.rank, self.ranks.size)


def _shapes(model: Any) -> dict[str, torch.Size]:
    """Of whole weights and buffers; in ZeRO-3 they are cut already."""
    parameters = model.named_parameters(remove_duplicate=False)
    shapes = {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters}
    return shapes | {name: buffer.shape for name, buffer in model.named_buffers()}
