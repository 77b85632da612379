"""Runs of the real command line in forked children, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "profiles" / "quickstart.toml"
SMALL = (
    "--set=train.max_steps=12",
    "--set=train.save_steps=4",
    "--set=train.batch_size=4",
    "--set=train.max_length=256",
    "--set=plugin.python_functions.limit=80",
    "--set=plugin.python_functions.modules=['json', 'textwrap', 'shutil', 'string', 'ast', 'inspect']",
    "--set=run.sample_tokens=8",
    "--set=plugin.lora.dropout=0.1",
)


@attrs.frozen(kw_only=True)
class Child:
    """One `ftcore` command in a forked process."""

    pid: int
    output: Path

    def wait(self) -> int:
        """Its exit code; 128 + n, as a shell says it, after a signal n."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def text(self) -> str:
        return self.output.read_text("utf-8", errors="replace")


def fork_ftcore(arguments: list[str], output: Path) -> Child:
    """Start a command in a child process, its output in a file."""
    pid = os.fork()
    if not pid:
        _become_ftcore(arguments, output)
    return Child(pid=pid, output=output)


def _become_ftcore(arguments: list[str], output: Path) -> None:
    code = 99
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from ftcore.cli import main

        code = main(arguments)
    finally:
        os._exit(code)


def losses(run: Path) -> dict[int, float]:
    """Loss by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for_step(run_dir: Path, step: int, seconds: float = 120) -> Path:
    """Wait until the run below `run_dir` has logged `step`; return its folder."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for metrics in run_dir.glob("*/metrics.jsonl"):
            if len(metrics.read_text().splitlines()) >= step:
                return metrics.parent
        time.sleep(0.005)
    raise AssertionError(f"no step {step} within {seconds} s in {run_dir}")


def read(path: Path) -> dict[str, Any]:
    """A JSON document."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def only_run(output_dir: Path) -> Path:
    """The one run folder below an output folder."""
    (manifest,) = output_dir.glob("*/manifest.json")
    return manifest.parent
