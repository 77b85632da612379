"""Light runs in processes of their own, which take their time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT = 60.0


def begin(desk: Any, *arguments: Any, pause: float = 0.05, **environment: str) -> subprocess.Popen[str]:
    """`ftcore` with the light plugins; a step takes `pause` seconds."""
    env = {**os.environ, **desk.installation.env, "LIGHT_PAUSE": str(pause), **environment}
    command = [sys.executable, "-m", "ftcore.cli", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=desk.folder, env=env, **pipes)


def in_the_steps(desk: Any, steps: int = 1) -> Path:
    """The folder of the one run, once it has taken so many steps."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        for folder in desk.runs():
            metrics = folder / "metrics.jsonl"
            if metrics.exists() and metrics.read_text("utf-8").count("\n") >= steps:
                return Path(folder)
        time.sleep(0.02)
    raise AssertionError("the run has taken no step")
