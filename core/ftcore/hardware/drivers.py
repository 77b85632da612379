"""The graphics cards, as their drivers' own tools tell them."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

TIMEOUT = 10
"""Seconds that a driver's tool may take; a GPU that fell off the bus can hang it for good."""

BF16_CAPABILITY = 8.0
"""Compute capability from which NVIDIA GPUs calculate in bfloat16 (Ampere)."""

FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "compute_cap")
OLD_FIELDS = FIELDS[:-1]  # drivers before 510 do not know the last


@attrs.frozen(kw_only=True)
class Card:
    """One graphics card. `memory` is in GiB; None is what the driver does not tell.

    `capability` is CUDA's compute capability, such as 8.9.
    """

    name: str
    memory: float | None
    driver: str = ""
    capability: float | None = None

    @property
    def bf16(self) -> bool | None:
        """Whether it calculates in bfloat16 itself; None where that is not known."""
        return None if self.capability is None else self.capability >= BF16_CAPABILITY

    def __str__(self) -> str:
        return self.name if self.memory is None else f"{self.name} with {self.memory:.1f} GiB"


def cards() -> list[Card]:
    """The cards that this process may use: those of NVIDIA, else those of AMD."""
    return nvidia_cards() or amd_cards()


def nvidia_cards() -> list[Card]:
    """Every NVIDIA GPU that `CUDA_VISIBLE_DEVICES` leaves; empty without a driver."""
    rows = _nvidia_rows(FIELDS) or _nvidia_rows(OLD_FIELDS)
    return [_nvidia_card(row) for row in visible(rows, os.environ.get("CUDA_VISIBLE_DEVICES"))]


def nvidia_memory_gib() -> list[float]:
    """Memory of each NVIDIA GPU in GiB, as the driver tells it, 0 where it does not; empty without a driver."""
    return [card.memory or 0.0 for card in nvidia_cards()]


def amd_cards() -> list[Card]:
    """Every AMD GPU, as rocm-smi tells it; empty without it."""
    text = _answer("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    try:
        found = json.loads(text)
        return [_amd_card(facts) for name, facts in sorted(found.items()) if name.startswith("card")]
    except (ValueError, AttributeError, TypeError):  # no JSON, or not what is expected
        return []


def _nvidia_rows(fields: Sequence[str]) -> list[dict[str, str]]:
    text = _answer("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields) and row[0].isdecimal()]


def _nvidia_card(row: Mapping[str, str]) -> Card:
    mebibytes = _number(row["memory.total"])
    return Card(
        name=row["name"],
        memory=None if mebibytes is None else mebibytes / 1024,
        driver=row["driver_version"],
        capability=_number(row.get("compute_cap", "")),
    )


def _amd_card(facts: Mapping[str, Any]) -> Card:
    known = {key.casefold(): str(value) for key, value in facts.items()}
    size = _number(known.get("vram total memory (b)", ""))
    name = known.get("card series") or known.get("card model") or "AMD GPU"
    return Card(name=name, memory=None if size is None else size / 2**30)


def visible(rows: Sequence[dict[str, str]], wanted: str | None) -> Sequence[dict[str, str]]:
    """CUDA's own rule: numbers or the beginnings of UUIDs, and the list ends where one is not there."""
    if wanted is None:
        return rows
    found: list[dict[str, str]] = []
    for name in (part.strip() for part in wanted.split(",")):
        row = next((row for row in rows if _is_named(row, name)), None)
        if row is None:
            break
        found.append(row)
    return found


def _is_named(row: Mapping[str, str], name: str) -> bool:
    return name == row["index"] or (name.startswith("GPU-") and row["uuid"].startswith(name))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:  # such as "[N/A]", where a GPU shares the machine's memory
        return None
    return value if 0 < value < math.inf else None


def _answer(name: str, *arguments: str) -> str:
    """What a tool prints; empty without the tool, and when it fails or hangs."""
    tool = shutil.which(name)
    return "" if tool is None else _told(tool, Path(tool).stat().st_mtime_ns, arguments)


@functools.lru_cache(maxsize=8)  # it takes half a second or, hung, all of its time, and a plan asks a dozen times
def _told(tool: str, _changed: int, arguments: tuple[str, ...]) -> str:
    try:
        answer = subprocess.run(  # noqa: S603
            [tool, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return answer.stdout
