"""Whether the heavy libraries work here. Each is tried in a process of its own: some end the one that imports them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import attrs

from ftcore.errors import printable
from ftcore.hardware.machine import Machine

TIMEOUT = 120
"""Seconds for one library; the first import after an installation compiles thousands of files."""

MARK = "ftcore-health:"
SHOWN = 160
"""Most characters of a reason."""

# Each does what a run would ask of the library, not only its import: a library without its CUDA part imports well.
TRIALS = {
    "torch": """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import torch
    gpu = torch.cuda.is_available()
tell(version=torch.__version__, cuda=torch.version.cuda or torch.version.hip or "", gpu=gpu,
     bf16=gpu and torch.cuda.is_bf16_supported(including_emulation=False),
     mps=torch.backends.mps.is_available(), told=[str(w.message) for w in told])
""",
    "torchvision": """
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
tell(version=torchvision.__version__)
""",
    "flash_attn": """
import flash_attn
from flash_attn import flash_attn_func
tell(version=flash_attn.__version__)
""",
    "bitsandbytes": """
import torch, bitsandbytes
from bitsandbytes.functional import quantize_4bit
quantize_4bit(torch.ones(64, 64, device="cuda" if torch.cuda.is_available() else "cpu"), quant_type="nf4")
tell(version=bitsandbytes.__version__)
""",
    "deepspeed": """
import deepspeed
tell(version=deepspeed.__version__)
""",
    "liger_kernel": """
import importlib.metadata
from liger_kernel.transformers import apply_liger_kernel_to_llama
tell(version=importlib.metadata.version("liger_kernel"))
""",
}

PREAMBLE = f"""
import json, sys
def tell(**facts):
    print({MARK!r} + json.dumps(facts), flush=True)
"""


@attrs.frozen(kw_only=True)
class Health:
    """How one library is. `detail` is its version and what else is of use, or the reason."""

    name: str
    state: Literal["ok", "not installed", "broken"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.state == "broken" else f"{self.state} {self.detail}".strip()


def library_health(machine: Machine, names: Sequence[str] = tuple(TRIALS), *, timeout: float = TIMEOUT) -> list[Health]:
    """Try each library; several at a time, as there are cores."""
    with ThreadPoolExecutor(max_workers=max(1, min(machine.cores, len(names)))) as pool:
        return list(pool.map(lambda name: _health(name, machine, timeout), names))


def _health(name: str, machine: Machine, timeout: float) -> Health:
    if importlib.util.find_spec(name) is None:
        return Health(name=name, state="not installed")
    facts, reason = _tried(TRIALS[name], timeout)
    if facts is None:
        return Health(name=name, state="broken", detail=reason)
    return _torch_health(facts, machine) if name == "torch" else Health(name=name, state="ok", detail=facts["version"])


def _tried(trial: str, timeout: float) -> tuple[dict[str, Any] | None, str]:
    """What the trial told; or None, and in a sentence why it failed."""
    command = [sys.executable, "-c", PREAMBLE + trial]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"it took over {timeout:g} seconds to import"
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode == 0 and told:
        return dict(json.loads(told[-1].removeprefix(MARK))), ""
    if done.returncode < 0:
        return None, f"it ended the process with signal {-done.returncode}"
    return None, _short(_last_error(done.stderr) or f"it ended the process with exit code {done.returncode}")


def _last_error(text: str) -> str:
    """The first line of the last exception in a traceback: what follows it is often a page of advice."""
    *_, last = text.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in last.splitlines() if line and not line.startswith(" ")]
    return lines[0] if lines else ""


def _torch_health(facts: dict[str, Any], machine: Machine) -> Health:
    build = f"built for {facts['cuda']}" if facts["cuda"] else "built for CPU"
    detail = f"{facts['version']}, {build}"
    if facts["gpu"]:
        return Health(name="torch", state="ok", detail=f"{detail}, with{'' if facts['bf16'] else 'out'} bf16")
    if facts["mps"]:
        return Health(name="torch", state="ok", detail=f"{detail}, with MPS")
    if not machine.cards:
        missing = ", without MPS" if machine.apple_silicon else ""
        return Health(name="torch", state="ok", detail=detail + missing)
    card = machine.cards[0]
    if not facts["cuda"]:
        reason = f"{detail}, but there is a {card.name}; install a build for GPUs (https://pytorch.org/get-started)"
        return Health(name="torch", state="broken", detail=reason)
    told = f": {facts['told'][0]}" if facts["told"] else ""
    driver = f" with driver {card.driver}" if card.driver else ""
    return Health(name="torch", state="broken", detail=_short(f"{detail}, does not see the {card.name}{driver}{told}"))


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
