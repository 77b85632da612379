"""What a worker does before anything else: it hangs its life on its launcher's, and its words into a file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

LOGS = "ranks"
PARENT = "FTCORE_LAUNCHER"
"""The launcher's process id, if it wants its workers to end with it."""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def rank_log(folder: Path, rank: int) -> Path:
    """Where a process that is not the main one writes what nobody looks at in a terminal."""
    return folder / LOGS / f"rank-{rank}.log"


def end_with_launcher() -> None:
    """Have the system kill this process when its launcher dies, however it dies. Linux only; else nothing."""
    launcher = os.environ.get(PARENT, "")
    if not launcher.isdigit() or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.kill(int(launcher), 0)
    except ProcessLookupError:  # it died before we asked
        os._exit(1)


def write_to_file(path: Path) -> None:
    """Let standard output and standard error of this process, and of what it starts, go to the end of a file."""
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
