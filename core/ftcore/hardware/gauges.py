"""What the machine does while a run trains: memory, processor, disk and graphics cards, every ten seconds or so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ftcore.hardware.nvml import Gpu, visible_gpus
from ftcore.hardware.usage import GIB
from ftcore.values import Run

SECONDS = 10.0
"""Seconds between two samples."""

MOST_SHARE = 0.002
"""Share of the time that samples may take: where a driver is slow, they come less often."""


class Gauges:
    """Samples of `system/...`, as docs/journal.md names them, not more often than every `seconds`.

    `gpus` is how many graphics cards the run uses here: the first ones that it sees. What the system, or a driver,
    does not tell is left out, and so is a graphics card that is not NVIDIA's.
    """

    def __init__(self, gpus: int = 1, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = clock()  # the first one comes with the first step
        self._host = Host()
        self._gpus: list[Gpu] = visible_gpus()[:gpus]

    def sample(self) -> dict[str, float]:
        """The figures of now; empty until the next ones are due."""
        start = self._clock()
        if start < self._next:
            return {}
        found = {f"system/{name}": value for name, value in self._figures()}
        end = self._clock()
        self._next = start + max(self._seconds, (end - start) / MOST_SHARE)
        return found

    def _figures(self) -> Iterator[tuple[str, float]]:
        yield from self._host.figures()
        for number, gpu in enumerate(self._gpus):
            yield from ((f"gpu{number}/{name}", value) for name, value in gpu.figures())


def gauges_of(run: Run) -> Gauges:
    """Those of the machine that the run's main process is on."""
    return Gauges(0 if run.profile.hardware.device == "cpu" else run.world.local_size)


class Host:
    """The machine and this process. Memory and reads are in GiB, the processor's use in percent."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._process = psutil.Process()
        self._told(psutil.cpu_percent)  # it counts from the call before

    def figures(self) -> Iterator[tuple[str, float]]:
        """What can be told, by its name below `system/`."""
        for name, ask in (
            ("process_memory", self._held),
            ("host_memory", self._in_use),
            ("cpu", self._psutil.cpu_percent),
            ("disk_read", self._read),
        ):
            value = self._told(ask)
            if value is not None:
                yield name, value

    def _told(self, ask: Callable[[], float]) -> float | None:
        try:
            return float(ask())
        except (OSError, AttributeError, NotImplementedError, self._psutil.Error):  # each system hides another one
            return None

    def _held(self) -> float:
        """Without files that are mapped, such as prepared rows: they give way when memory is short."""
        memory = self._process.memory_info()
        return float(memory.rss - getattr(memory, "shared", 0)) / GIB

    def _in_use(self) -> float:
        memory = self._psutil.virtual_memory()
        return float(memory.total - memory.available) / GIB

    def _read(self) -> float:
        return float(self._process.io_counters().read_bytes) / GIB
