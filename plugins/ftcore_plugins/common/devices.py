"""What `hardware.device`, `model.dtype` and `train.precision` mean on this machine. Imports torch."""

from __future__ import annotations

import os

from ftcore.api import Run, RunError


def device_of(run: Run) -> str:
    """`cuda`, `mps` or `cpu`. Raises `RunError` for a device that this machine does not have."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted: str = run.profile.hardware.device
    if wanted == "auto":
        wanted = next(name for name, present in there.items() if present)
    if not there[wanted]:
        raise RunError(f"hardware.device: torch {torch.__version__} finds no {wanted} on this machine; set it to auto")
    if wanted != "cuda":  # accelerate imports DeepSpeed where it is, which misses a GPU aloud
        os.environ.setdefault("DS_ACCELERATOR", wanted)
    return wanted


def dtype_of(run: Run) -> str:
    """The type that frozen weights are kept in: `float32`, `bfloat16` or `float16`."""
    wanted = run.profile.model.dtype
    if wanted != "auto":
        return wanted
    return "bfloat16" if gpu_with_bf16(device_of(run)) else "float32"


def precision_of(run: Run) -> str:
    """The precision of the arithmetic: `fp32`, `bf16` or `fp16`."""
    wanted = run.profile.train.precision
    if wanted != "auto":
        return wanted
    return "bf16" if gpu_with_bf16(device_of(run)) else "fp32"


def gpu_with_bf16(device: str) -> bool:
    """Whether the device is a GPU that calculates in bfloat16 itself rather than by emulation."""
    import torch

    if device == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
