"""Runs a converter of another library in a process of its own, which ends when this one does, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

PARENT = "FTCORE_PARENT"
"""The environment variable with the process that waits for another one."""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def convert_apart(command: Sequence[str], *, limit: float | None = None) -> subprocess.CompletedProcess[bytes]:
    """Wait for a converter's command, `python` and its arguments, at most `limit` seconds.

    In a session of its own: Ctrl-C asks the run to stop, which must not look like a converter that failed. Raises
    `subprocess.TimeoutExpired`.
    """
    return subprocess.run(  # noqa: S603 - our own interpreter, and a converter that the user chose
        [sys.executable, "-P", *command],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=limit,
        check=False,
    )


def last_words(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Why it failed: the last line that it has written, or how it ended where it says nothing."""
    if ended.returncode < 0:
        killed = signal.Signals(-ended.returncode).name
        return f"{killed}{', most likely since memory ran out' if killed == 'SIGKILL' else ''}"
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with code {ended.returncode}"


def end_with_parent() -> None:
    """Have the system kill this process when the one that waits for it dies, or has died. Linux only; else nothing.

    A converter that goes on would write into the folder of the next one.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):  # while libraries were imported here
        os._exit(1)
