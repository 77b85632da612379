"""DeepSpeed, made ready in the order that it needs. Imports torch, transformers and DeepSpeed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ftcore.api import Run
from ftcore_plugins.common.devices import device_of
from ftcore_plugins.common.quiet import no_telemetry


def begin(run: Run) -> None:
    """Join the group of processes that is there; a process that is alone makes one of its own.

    DeepSpeed would compile an extension for shared memory on a CPU, and look for MPI.
    """
    device = device_of(run)  # it tells DeepSpeed, too
    no_telemetry()
    import deepspeed

    if not torch.distributed.is_initialized():
        _group_of_one("gloo" if device == "cpu" else "nccl")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)


def _group_of_one(backend: str) -> None:
    """DeepSpeed and accelerate read from the environment which process this is, also if it is the only one."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)


def share_out_when_read(settings: Mapping[str, Any]) -> Any:
    """From now on, transformers shares out what it loads, as long as the answer is alive.

    The batch does not matter to that, but DeepSpeed wants a number and no "auto".
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    known = {name: value for name, value in settings.items() if value != "auto"}
    return HfDeepSpeedConfig({**known, "train_micro_batch_size_per_gpu": 1})
