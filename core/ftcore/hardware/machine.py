"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ftcore.hardware.drivers import Card, cards

ROOT = Path("/")
UNLIMITED = 2**60
"""Bytes from which version 1 of control groups means that there is no limit."""


@attrs.frozen(kw_only=True)
class Machine:
    """One machine. Memory and disk are in GiB; `disk` is what is free at `place`.

    `cores` and `memory` are what affinity and control groups (containers, Slurm) leave to this process.
    """

    system: str
    architecture: str
    chip: str
    cores: int
    memory: float
    disk: float
    place: Path
    cards: tuple[Card, ...] = ()

    @property
    def apple_silicon(self) -> bool:
        """Whether it is a Mac with an M-series chip, whose GPU shares the memory (MPS)."""
        return self.system == "Darwin" and self.architecture == "arm64"

    @property
    def bf16(self) -> bool | None:
        """Whether each of its graphics cards calculates in bfloat16; None without one, or where it is not known."""
        known = [card.bf16 for card in self.cards]
        return None if not known or None in known else all(known)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        found = [{**attrs.asdict(card), "bf16": card.bf16} for card in self.cards]
        return {**attrs.asdict(self, recurse=False), "place": str(self.place), "cards": found}


def this_machine(place: Path | None = None) -> Machine:
    """Look at this machine; `place` is the folder whose disk is meant, by default the working directory."""
    folder = (place or Path.cwd()).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        chip=_chip(),
        cores=usable_cores(),
        memory=usable_memory() / 2**30,
        disk=shutil.disk_usage(existing).free / 2**30,
        place=existing,
        cards=tuple(cards()),
    )


def usable_cores(root: Path = ROOT) -> int:
    """CPU cores that this process may use at once: by its affinity, and by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, "cpu"):
        quota, period = _quota(folder)
        if quota > 0 and period > 0:
            cores = min(cores, max(1, round(quota / period)))
    return cores


def usable_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [limit for limit in _numbers(folder / name)[:1] if 0 < limit < UNLIMITED]
    return min(limits)


def free_memory(root: Path = ROOT) -> int:
    """Bytes of memory that could be taken now without swapping, as far as the system tells it (Linux)."""
    free = usable_memory(root)
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = min(free, int(line.split()[1]) * 1024)
    return free


def _chip() -> str:
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return platform.processor()
    names = (line.partition(":")[2].strip() for line in _lines(ROOT / "proc/cpuinfo") if line.startswith("model name"))
    return next(names, platform.processor())


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it, of both versions (man 7 cgroups)."""
    mounted = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        base = mounted / names if names else mounted
        inside = Path(path.lstrip("/"))
        yield from (base / part for part in (inside, *inside.parents))


def _quota(folder: Path) -> tuple[int, int]:
    """Microseconds of CPU time in each period; (0, 0) without a limit."""
    if both := _numbers(folder / "cpu.max"):
        return (both[0], both[1]) if len(both) > 1 else (0, 0)
    quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
    return (quota[0], period[0]) if quota and period else (0, 0)


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a small file; `max`, which stands for no limit, is none."""
    words = " ".join(_lines(path)).split()
    return [int(word) for word in words if word.lstrip("-").isdigit()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a file that a container hides
        return []
