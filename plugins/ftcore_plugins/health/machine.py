"""Signs in memory and disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ftcore.api import Run, Step
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Quiet, Sign, gpus

GIB = 2**30
MEMORY = "system/process_memory"


class Creeping(Quiet):
    """Memory of the process, or of the fullest card, that grows and grows, from each eighth of the samples to the next.

    It is looked at when there are a quarter more samples than the last time. The first eighth, in which caches fill,
    does not count; what levels off is no leak.
    """

    sign = Sign.MEMORY_CREEPING
    PARTS, FEWEST, MORE = 8, 64, 1.25
    LEAST = 0.1
    """GiB that memory must have grown by."""

    LATER = 0.4
    """Share of the growth that must be in the later half: of a leak, half of it is."""

    def __init__(self, options: Options, where: Literal["the process", "a GPU"] = "the process") -> None:
        self._growth, self._where = options.memory_growth, where
        self._samples: list[tuple[int, float]] = []
        self._next = float(self.FEWEST)
        self._finding: Finding | None = None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        held = step.metrics.get(MEMORY) if self._where == "the process" else max(gpus(step, "memory"), default=None)
        if held is None or not math.isfinite(held):
            return self._finding
        self._samples.append((step.number, held))
        if len(self._samples) >= self._next:
            self._next = self.MORE * len(self._samples)
            self._finding = self._looked_at(step)
        return self._finding

    def _looked_at(self, step: Step) -> Finding | None:
        size = len(self._samples) // self.PARTS
        parts = [self._samples[size * part : size * (part + 1)] for part in range(1, self.PARTS)]
        means = [math.fsum(held for _, held in part) / size for part in parts]
        rises = [after - before for before, after in pairwise(means)]
        grown = means[-1] - means[0]
        level = sum(rises[len(rises) // 2 :]) < self.LATER * grown
        if min(rises) <= 0 or level or grown < max(self.LEAST, self._growth * means[0]):
            return None
        rate = grown / max(1, parts[-1][0][0] - parts[0][0][0])
        end = means[-1] + rate * (step.total - step.number)
        first = f"{means[0]:.2f} GiB at step {parts[0][0][0]}"
        text = f"memory of {self._where} creeps up: {first}, {means[-1]:.2f} GiB now"
        advice = "ftcore stop the run and go on with it in a fresh process; leave plugins out to find which one leaks"
        return Finding(f"{text}, and about {end:.1f} GiB at the end at this rate", advice)


class Full(Quiet):
    """A disk with too little room for the next checkpoint. Looked at when the machine was sampled."""

    sign = Sign.DISK_FULL

    def __init__(self, run: Run, options: Options, free: Callable[[Path], float] | None = None) -> None:
        self._folder, self._spare, self._free = run.folder, options.disk_free, free or _free
        self._finding: Finding | None = None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        if MEMORY in step.metrics:
            self._finding = self._looked_at()
        return self._finding

    def _looked_at(self) -> Finding | None:
        free, checkpoint = self._free(self._folder), _newest_checkpoint(self._folder)
        if free >= self._spare + checkpoint:
            return None
        text = f"{free:.2g} GiB are free in {self._folder}, and a checkpoint takes {checkpoint:.2g} GiB"
        return Finding(text, "free some, or lower train.save_limit; without room, the next checkpoint ends the run")


def _free(folder: Path) -> float:
    return shutil.disk_usage(folder).free / GIB


def _newest_checkpoint(folder: Path) -> float:
    found = sorted((folder / "checkpoints").glob("step-*"))
    files = found[-1].rglob("*") if found else iter(())
    try:
        return sum(file.stat().st_size for file in files) / GIB
    except OSError:  # it is being removed
        return 0.0
