"""Names and values as MLflow takes them: letters, digits and a few signs, of a limited length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ftcore.api import Point
from ftcore_plugins.common.tracking import grouped

__all__ = ["TAG_LENGTH", "batches", "clean", "metrics_of", "texts"]

T = TypeVar("T")

KEY_LENGTH, TAG_LENGTH, PARAM_LENGTH = 250, 5000, 6000
"""Most letters of a name, of a tag's value and of a parameter's: https://mlflow.org/docs/latest/rest-api.html"""

NOT_ALLOWED = re.compile(r"[^/\w.\- ]")
NOWHERE = ("", ".", "..")
"""Parts of a name that would not stay where they are in a path."""

GIB_IN_MB = 2**30 / 1e6
GPU = re.compile(r"system/gpu(\d+)/(\w+)")
SYSTEM = {
    "system/cpu": ("system/cpu_utilization_percentage", 1.0),
    "system/host_memory": ("system/system_memory_usage_megabytes", GIB_IN_MB),
    "system/process_memory": ("system/process_memory_usage_megabytes", GIB_IN_MB),
    "system/disk_read": ("system/disk_read_megabytes", GIB_IN_MB),
}
OF_GPU = {
    "memory": ("memory_usage_megabytes", GIB_IN_MB),
    "utilization": ("utilization_percentage", 1.0),
    "temperature": ("temperature_celsius", 1.0),
    "power": ("power_usage_watts", 1.0),
}
"""MLflow's own names and units, by which its page of system metrics draws them."""


def metrics_of(point: Point) -> dict[str, float]:
    """The figures of a point under MLflow's names."""
    named = (_system(name, value) for name, value in grouped(point.metrics).items())
    return {clean(name): value for name, value in named}


def clean(name: str) -> str:
    """A name that MLflow takes: another sign becomes `_`."""
    parts = (part for part in NOT_ALLOWED.sub("_", name).split("/") if part not in NOWHERE)
    return "/".join(parts)[:KEY_LENGTH].rstrip("/") or "_"


def texts(values: Mapping[str, Any], longest: int = PARAM_LENGTH) -> dict[str, str]:
    """Values as the texts that parameters and tags are; what is too long is cut, and ends in three dots."""
    return {clean(name): _cut(str(value), longest) for name, value in values.items()}


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """The items in lists of at most `size`."""
    rest = list(items)
    return (rest[start : start + size] for start in range(0, len(rest), size))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _system(name: str, value: float) -> tuple[str, float]:
    gpu = GPU.fullmatch(name)
    if gpu is None:
        renamed, factor = SYSTEM.get(name, (name, 1.0))
        return renamed, value * factor
    ending, factor = OF_GPU.get(gpu[2], (gpu[2], 1.0))
    return f"system/gpu_{gpu[1]}_{ending}", value * factor
