"""How much memory a process has held, and how many threads this one may use."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

GIB = 2**30
RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of `ru_maxrss`'s unit."""


def process_peak(pid: int | None = None) -> float:
    """The most GiB that a process, this one by default, has held so far; 0 for another one outside Linux.

    Not `ru_maxrss` where there is something better: a process begins with its parent's.
    """
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text("utf-8")
    except OSError:  # no Linux, or it has ended meanwhile
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT / GIB if pid is None else 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 / GIB if sizes else 0.0


def set_threads(count: int) -> None:
    """Limit the threads of tensor operations; 0 leaves it to torch, which sizes its pools as it is imported."""
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
