"""What can be known about ZeRO before anything heavy is imported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

from ftcore.api import Problem, Run
from ftcore_plugins.common.requirements import missing

GIB = 2**30
LEAST_FREE = GIB
"""Bytes that a disk must have free for anything to be offloaded to it."""


def problems(plugin: str, run: Run, config: Any) -> list[Problem]:
    """All that is wrong with the plugin's own options, and with the core's beside it."""
    found = missing(plugin, "deepspeed", "torch", "deepspeed", "accelerate")
    return [*found, *_training_problems(plugin, run), *_disk_problems(plugin, run, config)]


def _training_problems(plugin: str, run: Run) -> Iterator[Problem]:
    train = run.profile.train
    if train.optimizer not in ("adamw", "sgd"):
        message = f"{plugin} cannot share out the state of {train.optimizer}; set it to adamw or sgd"
        yield Problem(key="train.optimizer", message=message)
    if train.precision == "fp16":
        message = f"{plugin} keeps a loss scale that no checkpoint has; set it to bf16 or fp32"
        yield Problem(key="train.precision", message=message)
    if run.profile.hardware.device == "mps":
        yield Problem(key=f"plugin.{plugin}", message="DeepSpeed knows no Apple GPU; leave it out")


def _disk_problems(plugin: str, run: Run, config: Any) -> Iterator[Problem]:
    wanted = [name for name in ("offload_optimizer", "offload_parameters") if getattr(config, name, "") == "nvme"]
    folder = getattr(config, "nvme_path", None)
    if not wanted:
        if folder is not None:
            yield Problem(key=f"plugin.{plugin}.nvme_path", message="nothing is offloaded to nvme; leave it out")
        return
    fault = _folder_fault(folder, wanted, run)
    if fault:
        yield Problem(key=f"plugin.{plugin}.nvme_path", message=fault)
    lacking = [tool for tool in ("ninja", "c++") if shutil.which(tool) is None]
    lacking += ["libaio"] if find_library("aio") is None else []
    if lacking:
        needs = f"nvme needs {', '.join(lacking)} to build DeepSpeed's access to the disk"
        message = f"{needs}; run: apt install libaio-dev g++ ninja-build, or offload to cpu"
        yield Problem(key=f"plugin.{plugin}.{wanted[0]}", message=message)


def _folder_fault(folder: Path | None, wanted: list[str], run: Run) -> str:
    if folder is None:
        return "not set; name a folder on a fast disk"
    if not folder.is_dir():
        return f"no such folder: {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written to; choose another folder"
    needed, free = _needed(wanted, run), shutil.disk_usage(folder).free
    if free < needed:
        return f"{folder} has {free / GIB:.1f} GiB free, and at least {needed / GIB:.1f} are needed; free some"
    return ""


def _needed(wanted: list[str], run: Run) -> int:
    """Bytes, at least: how large a model on the hub is, nobody knows yet."""
    weights = sum(path.stat().st_size for path in Path(run.profile.model.id or os.devnull).glob("*.safetensors"))
    return max(LEAST_FREE, weights if "offload_parameters" in wanted else 0)
