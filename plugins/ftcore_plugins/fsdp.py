"""Shares the weights out among the processes by torch's own means: fully sharded data parallel, the second (FSDP2).

Each process keeps a part of every weight, of its gradient and of its optimizer state, and gathers a layer's weights
when it needs them (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import Loaded, Problem, Run, hookimpl, option
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.common.saved import require_whole


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.fsdp]`."""

    offload: bool = option(False, help="keep weights and optimizer state in the memory of the host, not of the GPU")
    reshard: bool = option(
        True, help="give a layer's gathered weights back after its forward pass; false takes memory to save sending"
    )


class Fsdp:
    """Shapes the trainer's arguments; what starts the processes is told in `[hardware]`."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """There must be several processes, and an optimizer whose state can be cut as the weights are."""
        return [*missing("fsdp", "train", "torch", "accelerate"), *_problems(run)]

    @hookimpl
    def quantize(self) -> None:
        """Keep the place of a quantizer empty: quantized weights cannot be cut anywhere."""

    @hookimpl(wrapper=True)
    def sketch_model(self) -> Generator[None, Loaded | None, Loaded | None]:
        """Refuse a model that is saved quantized, before its weights are read."""
        return require_whole("fsdp", (yield))

    @hookimpl
    def training_args(self, run: Run) -> Mapping[str, Any] | None:
        """Arguments of transformers' trainer; nothing for a process that is alone."""
        if run.world.size == 1:
            return None
        from ftcore_plugins.common.devices import device_of

        on_cpu = device_of(run) == "cpu"
        settings = {
            "version": 2,
            "reshard_after_forward": self.config.reshard,
            "cpu_offload": self.config.offload and not on_cpu,
            "state_dict_type": "FULL_STATE_DICT",
        }
        shared = {"fsdp": True, "fsdp_config": settings}
        return {**shared, **_on_cpu()} if on_cpu else shared


def _problems(run: Run) -> Iterator[Problem]:
    hardware, train = run.profile.hardware, run.profile.train
    if (hardware.processes, hardware.machines, run.world.size) == (1, 1, 1):
        message = "one process has nobody to share with, and trains as without it; set hardware.processes"
        yield Problem(key="plugin.fsdp", message=message, severity="warning")
    if train.optimizer not in ("adamw", "sgd"):
        message = f"fsdp cannot share out the state of {train.optimizer}; set it to adamw or sgd"
        yield Problem(key="train.optimizer", message=message)
    if hardware.device == "mps":
        yield Problem(key="plugin.fsdp", message="an Apple GPU cannot be shared out; leave it out")


def _on_cpu() -> Mapping[str, Any]:
    """Accelerate takes FSDP on CPUs for DDP, unless its state is there already and says otherwise."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    return {"accelerator_config": {"use_configured_state": True}}
