"""What the journals of two runs are compared by, and what a short one is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcore.journal.metrics import read_metrics
from ftcore.journal.writing import Journal

OWN = ("time", "seconds", "data_seconds", "tokens_per_second", "memory")
"""Figures that no two runs share: they are about the clock and the machine, as all of `system/...` are."""


def figures(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` with the figures that a run of the same profile has bit by bit."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [
        {name: value for name, value in line.items() if name not in OWN and not name.startswith("system/")}
        for line in lines
    ]


def steps(journal: Journal, first: int, last: int) -> None:
    """Write down these steps, each with a loss."""
    for number in range(first, last + 1):
        journal.stepped(number)
        journal.point(number, {"loss": 1 / number})


def written(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    """One figure of a run's `metrics.jsonl`, with the step of each line that has it."""
    return [(line["step"], line[name]) for line in read_metrics(folder / "metrics.jsonl") if name in line]
