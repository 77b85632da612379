"""NVIDIA's graphics cards as their driver's library (NVML) tells them while they work. Needs `nvidia-ml-py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from ftcore.hardware.drivers import visible
from ftcore.hardware.usage import GIB

MIG = "MIG-"
"""How the name of a part of a card begins (https://docs.nvidia.com/datacenter/tesla/mig-user-guide)."""


class Gpu:
    """One card, or a part of one, whose temperature and power are the whole card's.

    A figure that the driver refuses, as it does for the use of a card that is cut in parts, is left out.
    """

    def __init__(self, nvml: Any, handle: Any, card: Any) -> None:
        self._nvml, self._handle, self._card = nvml, handle, card

    def figures(self) -> Iterator[tuple[str, float]]:
        """GiB, percent, degrees Celsius and watts, by their names in docs/journal.md."""
        for name, ask in (
            ("memory", self._memory),
            ("utilization", self._utilization),
            ("temperature", self._temperature),
            ("power", self._power),
        ):
            try:
                yield name, float(ask())
            except self._nvml.NVMLError:  # not supported, no permission, or the card is lost
                continue

    def _memory(self) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used) / GIB

    def _utilization(self) -> float:
        return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)

    def _temperature(self) -> float:
        return float(self._nvml.nvmlDeviceGetTemperature(self._card, self._nvml.NVML_TEMPERATURE_GPU))

    def _power(self) -> float:
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._card)) / 1000


def visible_gpus() -> list[Gpu]:
    """The cards that `CUDA_VISIBLE_DEVICES` leaves, in its order; empty without NVML, a driver, or a card.

    NVML counts cards by their place on the bus; so does CUDA on a machine whose cards are all alike.
    """
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return _gpus(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except pynvml.NVMLError:  # no driver, or one that does not match its library
        return []


def _gpus(nvml: Any, wanted: str | None) -> list[Gpu]:
    if wanted is not None and wanted.strip().startswith(MIG):
        return list(_parts(nvml, wanted))
    handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    rows = [{"index": str(number), "uuid": _uuid(nvml, handle)} for number, handle in enumerate(handles)]
    return [Gpu(nvml, handles[int(row["index"])], handles[int(row["index"])]) for row in visible(rows, wanted)]


def _parts(nvml: Any, wanted: str) -> Iterator[Gpu]:
    for name in (part.strip() for part in wanted.split(",")):
        handle = _answer(nvml, nvml.nvmlDeviceGetHandleByUUID, name)
        if handle is None:
            return
        card = _answer(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
        yield Gpu(nvml, handle, handle if card is None else card)


def _uuid(nvml: Any, handle: Any) -> str:
    found = _answer(nvml, nvml.nvmlDeviceGetUUID, handle)
    return "" if found is None else str(found)


def _answer(nvml: Any, ask: Callable[[Any], Any], about: Any) -> Any:
    try:
        return ask(about)
    except nvml.NVMLError:
        return None
