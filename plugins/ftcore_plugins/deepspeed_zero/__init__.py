"""Shares training out among the processes by DeepSpeed's ZeRO (https://arxiv.org/abs/1910.02054).

Stage 2 shares out gradients and optimizer state, stage 3 the weights, too. Either may keep the optimizer's state
outside the GPU, and stage 3 the weights: by that, even one process trains what its GPU cannot hold.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from ftcore.api import Loaded, Problem, Run, hookimpl, option
from ftcore_plugins.common.saved import require_whole
from ftcore_plugins.deepspeed_zero.checks import problems


@attrs.frozen(kw_only=True)
class Options2:
    """Options of `[plugin.deepspeed_zero2]`."""

    offload_optimizer: Literal["none", "cpu"] = option(
        "none", help="keep the optimizer's state in the memory of the host"
    )


@attrs.frozen(kw_only=True)
class Options3:
    """Options of `[plugin.deepspeed_zero3]`."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = option(
        "none", help="keep the optimizer's state in the memory of the host, or on a disk"
    )
    offload_parameters: Literal["none", "cpu", "nvme"] = option(
        "none", help="keep the weights in the memory of the host, or on a disk"
    )
    nvme_path: Path | None = option(None, help="folder on a fast disk for what is offloaded to nvme")


class _Zero:
    """What both stages do. `settings` are in DeepSpeed's words (https://www.deepspeed.ai/docs/config-json)."""

    name: str
    stage: int
    shares_weights = False

    def __init__(self, config: Any) -> None:
        self.config = config
        self._alive: Any = None

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """DeepSpeed must be there, the optimizer must be one that it can share out, and the disk must have room."""
        return problems(self.name, run, self.config)

    @hookimpl
    def quantize(self) -> None:
        """Keep the place of a quantizer empty: quantized weights cannot be cut anywhere."""

    @hookimpl(wrapper=True)
    def sketch_model(self) -> Generator[None, Loaded | None, Loaded | None]:
        """Refuse a model that is saved quantized, before its weights are read."""
        return require_whole(self.name, (yield))

    @hookimpl(wrapper=True)
    def load_model(self, run: Run) -> Generator[None, Loaded, Loaded]:
        """Set DeepSpeed up; in stage 3, each weight is shared out as soon as it is read."""
        from ftcore_plugins.deepspeed_zero import setup

        setup.begin(run)
        if self.shares_weights:
            self._alive = setup.share_out_when_read(self.settings(run))
        return (yield)

    @hookimpl
    def training_args(self, run: Run) -> Mapping[str, Any]:
        """DeepSpeed's settings, as the trainer takes them."""
        return {"deepspeed": self.settings(run)}

    def settings(self, run: Run) -> dict[str, Any]:
        """Batch sizes and clipping are filled in by the trainer. Torch's own optimizer also runs on the host."""
        from ftcore_plugins.common.devices import precision_of

        filled = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        return {
            **dict.fromkeys((*filled, "gradient_clipping"), "auto"),
            "bf16": {"enabled": precision_of(run) == "bf16"},
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": self.stage, **self.sharing()},
        }

    def sharing(self) -> dict[str, Any]:
        """What the stages differ in."""
        raise NotImplementedError

    def place(self, device: str) -> dict[str, Any]:
        """Where something is offloaded to."""
        path = getattr(self.config, "nvme_path", None)
        return {"device": device, **({"nvme_path": str(path)} if device == "nvme" else {})}


class Zero2(_Zero):
    """Gradients and optimizer state in parts; every process has all weights."""

    Config = Options2
    name, stage = "deepspeed_zero2", 2

    def sharing(self) -> dict[str, Any]:
        """See `_Zero`. Buckets of 50 million numbers send as fast as the default ones, which take 2 GB."""
        buckets = {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
        return {**buckets, "offload_optimizer": self.place(self.config.offload_optimizer)}


class Zero3(_Zero):
    """Weights, gradients and optimizer state in parts; a layer's weights are gathered when it runs."""

    Config = Options3
    name, stage = "deepspeed_zero3", 3
    shares_weights = True

    def sharing(self) -> dict[str, Any]:
        """See `_Zero`. Sizes follow the model's width."""
        sizes = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
        return {
            **dict.fromkeys(sizes, "auto"),
            "stage3_gather_16bit_weights_on_model_save": True,
            "offload_optimizer": self.place(self.config.offload_optimizer),
            "offload_param": self.place(self.config.offload_parameters),
        }
