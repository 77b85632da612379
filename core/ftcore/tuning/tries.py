"""Start tries one after the other, watch over them, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ftcore.errors import RunError, printable
from ftcore.hardware.usage import process_peak
from ftcore.preflight import LoadedProfile
from ftcore.processes.attach import PARENT
from ftcore.profile import Table
from ftcore.runs import write_profile
from ftcore.tuning.search import Try
from ftcore.tuning.trial import RESULTS

LOG = "log"
KILLED = "out of memory (the system has killed it)"
POLL = 0.05
"""Seconds between two looks at a try: what it takes in between is not seen."""


class Tries:
    """Tries of one profile on this machine, in a temporary folder that goes at the end.

    `steps` are taken in each, of which the first does not count; a try ends after `timeout` seconds. `memory` is a
    limit in GiB on what a device holds; with `on_cpu` that is a process, which is ended when it passes it.
    `processes` train together in each try, with as many rows each.
    """

    def __init__(
        self,
        loaded: LoadedProfile,
        *,
        steps: int,
        timeout: float,
        memory: float | None = None,
        on_cpu: bool = False,
        processes: int = 1,
    ) -> None:
        self._loaded, self._steps, self._timeout, self._processes = loaded, steps, timeout, processes
        self._memory, self._on_cpu = memory, on_cpu
        self._folder = Path()

    def __enter__(self) -> Tries:
        self._folder = Path(tempfile.mkdtemp(prefix="ft-tune-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def prepare(self) -> Mapping[str, Any]:
        """Read and format the rows once: `rows` there are, and the tokens of the `longest`.

        Raises `RunError` as a run would.
        """
        result = self._result(1, "--only-prepare", timeout=None)
        if result["state"] == "prepared":
            return result
        raise RunError(f"the rows cannot be prepared: {result.get('reason') or result['state']}")

    def attempt(self, rows: int) -> Try:
        """Train a few steps with micro-batches of `rows` rows. Raises `RunError` for what is no lack of memory."""
        result = self._result(rows, timeout=self._timeout)
        memory = result.get("memory")
        if result["state"] != "fits":
            return Try(rows=rows, fits=False, memory=memory, reason=result["state"])
        if self._memory is not None and memory is not None and memory > self._memory:
            return Try(rows=rows, fits=False, memory=memory, reason=f"over {self._memory:g} GiB")
        return Try(rows=rows, fits=True, memory=memory, speed=result.get("tokens_per_second"))

    def _result(self, rows: int, *flags: str, timeout: float | None) -> Mapping[str, Any]:
        write_profile(self._folder, self._settings(rows))
        shutil.rmtree(self._folder / RESULTS, ignore_errors=True)
        ended = self._watched([*flags], timeout, None if flags else self._memory)
        if isinstance(ended, Mapping):
            return ended
        told = self._told()
        if any(result["state"] == "out of memory" for result in told):
            return {"state": "out of memory"}
        failures = [str(result["reason"]) for result in told if result["state"] == "failed"]
        if ended == -signal.SIGKILL or any("SIGKILL" in reason for reason in failures):
            return {"state": KILLED}  # what the system does to the largest when memory is short
        if failures:
            raise RunError(failures[0])
        if not told or ended:
            raise RunError(f"the try with {rows} rows ended with exit code {ended}: {self._last_line()}")
        held = [result["memory"] for result in told if result.get("memory") is not None]
        return {**told[0], "memory": max(held, default=None)}

    def _told(self) -> list[Mapping[str, Any]]:
        """What each process has written, the first one first: what others tell may follow from that."""
        files = sorted((self._folder / RESULTS).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text("utf-8")) for path in files]

    def _watched(self, flags: list[str], timeout: float | None, memory: float | None) -> int | Mapping[str, Any]:
        """The exit code of a try, or how it stands when it had to be ended."""
        command = [sys.executable, "-m", "ftcore.cli", "trial", str(self._folder), *flags]
        deadline = time.monotonic() + timeout if timeout else None
        with (self._folder / LOG).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is ours to answer, and what it starts ends with it
            )
        try:
            while process.poll() is None:
                held = max(map(process_peak, _family(process.pid)), default=0.0) if self._on_cpu else 0.0
                if memory is not None and held > memory:
                    return {"state": f"over {memory:g} GiB", "memory": held}
                if deadline is not None and time.monotonic() > deadline:
                    return {"state": f"took over {timeout:g} seconds"}
                time.sleep(POLL)
            return process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _environment(self) -> dict[str, str]:
        threads = self._loaded.profile.hardware.threads
        return {
            **os.environ,
            PARENT: str(os.getpid()),
            "TMPDIR": str(self._folder),  # what a try that is killed leaves there goes with the folder
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }

    def _settings(self, rows: int) -> Table:
        """The profile, with a batch that is one micro-batch, few steps, and nothing that watches or is saved."""
        settings = self._loaded.settings()
        batch = rows * self._processes
        train = {"micro_batch_size": rows, "batch_size": batch, "max_steps": self._steps, "warmup": 0}
        quiet = {"save_steps": 0, "eval_steps": 0, "log_steps": 1}
        changes = {
            "run": {"samples": 0},
            "hardware": {"processes": self._processes, "max_restarts": 0},
            "train": {**train, **quiet},
        }
        return {name: {**table, **changes.get(name, {})} for name, table in settings.items()}

    def _last_line(self) -> str:
        text = (self._folder / LOG).read_text("utf-8", errors="replace").strip()
        return printable(text.rpartition("\n")[2]) or "it said nothing"


def _family(pid: int) -> list[int]:
    """A process and its children (Linux; elsewhere none): with several ranks, the children hold the memory."""
    try:
        lists = [path.read_text("utf-8") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        lists = []
    return [pid, *(int(child) for text in lists for child in text.split())]
