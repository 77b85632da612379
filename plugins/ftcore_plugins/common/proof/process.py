"""An artifact in its own runtime, in a process of its own.

A plugin writes a module with a class that is a `Runtime` and ends it with

    if __name__ == "__main__":
        answer(GgufRuntime)

and asks it from the training process with `ask("ftcore_plugins.gguf.runtime", ...)`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import attrs

from ftcore_plugins.common.converters import PARENT, end_with_parent
from ftcore_plugins.common.proof.comparison import Findings, compare
from ftcore_plugins.common.proof.questions import Runtime
from ftcore_plugins.common.proof.reference import read_reference

LIMIT = 3600.0
"""Seconds that a runtime may take: a model of 8 billion parameters on two cores needs a third of it."""

WORDS, LINE = 20, 4096
"""Lines of a runtime that are kept, the last ones, and the longest one in bytes."""

OF_THE_RUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
PREFIXES = ("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "SLURM_")
"""Of the environment, what tells a library that it is one of several processes, which a runtime is not."""


def ask(
    module: str,
    artifact: Path,
    reference: Path,
    options: Mapping[str, Any] | None = None,
    *,
    limit: float = LIMIT,
) -> Findings:
    """Have the module's process compare `artifact` with `reference`, for at most `limit` seconds.

    What goes wrong in it is a finding too; what this machine lacks, time or memory, is no fault of the artifact's.
    Raises `RunError` when the reference itself cannot be read.
    """
    read_reference(reference)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "findings.json")
        # -P: a module in the working directory must not take the place of the runtime's.
        command = [sys.executable, "-P", "-m", module, *map(str, (artifact.absolute(), reference.absolute(), result))]
        command.append(json.dumps(options or {}))
        with _process(command, Path(scratch)) as (process, words):
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return Findings(unanswered=[f"its runtime did not answer within {_duration(limit)}"])
        return _read(result) if result.is_file() else _ended(code, words())


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[str]]]]:
    """The running command, and its last words. It and all that it has started is gone afterwards.

    In a session of its own: Ctrl-C asks the run to stop, which must not look like a runtime that crashed.
    """
    kept: deque[str] = deque(maxlen=WORDS)
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    reader = threading.Thread(target=_keep_last, args=(process.stderr, kept), daemon=True)
    reader.start()

    def words() -> list[str]:
        reader.join(1.0)  # what it started may hold the pipe open
        return list(kept)

    try:
        yield process, words
    finally:
        _end(process)


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in OF_THE_RUN and not name.startswith(PREFIXES)
    }
    # Without a GPU: the training process still holds its memory. TMPDIR: what it leaves there goes with the folder.
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder), PARENT: str(os.getpid())}


def _keep_last(stream: IO[bytes], kept: deque[str]) -> None:
    with stream:
        for line in iter(lambda: stream.readline(LINE), b""):
            if text := line.decode("utf-8", "replace").strip():
                kept.append(text)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(result: Path) -> Findings:
    try:
        return Findings(**json.loads(result.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Findings(error="what its runtime has found cannot be read")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds"  # noqa: PLR2004


def _ended(code: int, words: list[str]) -> Findings:
    if code == -signal.SIGKILL:
        return Findings(unanswered=["its runtime ended with SIGKILL, most likely since memory ran out"])
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    last = _last_words(words)
    return Findings(error=f"its runtime ended with {how}{': ' if last else ''}{last}")


def _last_words(words: list[str]) -> str:
    # A C library's goodbye stands above the interpreter's list of modules.
    plain = [line for line in words if not line.startswith("Extension modules:")]
    return "".join(letter for letter in (plain or [""])[-1][:200] if letter.isprintable())


def answer(open_runtime: Callable[..., Runtime]) -> None:
    """The main function of a runtime's process: `open_runtime(artifact, **options)` loads the artifact."""
    end_with_parent()
    artifact, reference, result, options = sys.argv[1:]
    findings = examine(open_runtime, Path(artifact), Path(reference), json.loads(options))
    partial = Path(f"{result}.partial")
    partial.write_text(json.dumps(attrs.asdict(findings)), "utf-8")
    partial.rename(result)
    # Libraries that crash while they are torn down shall not, when all has been said.
    os._exit(0)


def examine(
    open_runtime: Callable[..., Runtime], artifact: Path, folder: Path, options: Mapping[str, Any] | None = None
) -> Findings:
    """Load the artifact in this very process, and compare it with the reference in `folder`."""
    reference = read_reference(folder)
    try:
        runtime = open_runtime(artifact, **(options or {}))
    except Exception as error:  # whatever keeps a stranger from loading it, from whichever library
        return Findings(error=f"it does not load: {_line(error)}")
    try:
        return compare(reference, folder, runtime)
    except Exception as error:  # the same, of what it is asked
        return Findings(error=f"it loads, and does not answer: {_line(error)}")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
