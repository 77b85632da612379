"""The most memory that was held so far. Imports torch."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of `ru_maxrss`'s unit."""


def peak(device: torch.device) -> float:
    """GiB of the device's tensors; on a CPU, of the whole process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / GIB
    if device.type == "mps":  # it keeps no peak
        return float(torch.mps.driver_allocated_memory()) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIB
