"""The most memory that was held so far. Imports torch."""

from __future__ import annotations

import torch

from ftcore.api import process_peak

GIB = 2**30


def peak(device: torch.device) -> float:
    """GiB of the device's tensors; on a CPU, of the whole process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / GIB
    if device.type == "mps":  # it keeps no peak
        return float(torch.mps.driver_allocated_memory()) / GIB
    return process_peak()
