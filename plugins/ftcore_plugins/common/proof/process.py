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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore_plugins.common.proof.comparison import Findings, compare
from ftcore_plugins.common.proof.questions import Runtime
from ftcore_plugins.common.proof.reference import read_reference

LIMIT = 3600.0
"""Seconds that a runtime may take: a model of 8 billion parameters on two cores needs a third of it."""


def ask(module: str, artifact: Path, reference: Path, options: Mapping[str, Any] | None = None) -> Findings:
    """Have the module's process compare `artifact` with `reference`. What goes wrong in it is a finding too."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "findings.json")
        # -P: a module in the working directory must not take the place of the runtime's.
        command = [sys.executable, "-P", "-m", module, str(artifact), str(reference), str(result)]
        command.append(json.dumps(options or {}))
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        try:
            ended = subprocess.run(  # noqa: S603 - our own interpreter and module
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return Findings(error=f"its runtime did not answer within {LIMIT / 60:.0f} minutes")
        if result.is_file():
            return Findings(**json.loads(result.read_text("utf-8")))
        return Findings(error=_ending(ended))


def _ending(ended: subprocess.CompletedProcess[bytes]) -> str:
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    how = f"code {ended.returncode}"
    if ended.returncode < 0:
        how = signal.Signals(-ended.returncode).name
    return f"its runtime ended with {how}{': ' if lines else ''}{lines[-1] if lines else ''}"


def answer(open_runtime: Callable[..., Runtime]) -> None:
    """The main function of a runtime's process: `open_runtime(artifact, **options)` loads the artifact."""
    artifact, reference, result, options = sys.argv[1:]
    asked = read_reference(Path(reference))
    try:
        runtime = open_runtime(Path(artifact), **json.loads(options))
    except Exception as error:  # whatever keeps a stranger from loading it, from whichever library
        findings = Findings(error=f"it does not load: {str(error).strip().partition(chr(10))[0]}")
    else:
        findings = compare(asked, Path(reference), runtime)
    Path(result).write_text(json.dumps(attrs.asdict(findings)), "utf-8")
