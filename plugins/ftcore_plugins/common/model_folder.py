"""What a model's folder says of itself, read with the standard library alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LENGTH = 8
"""Bytes at the start of a safetensors file: how long its JSON header is."""

LARGEST_HEADER = 100_000_000
"""Bytes; as much as the format allows (https://github.com/huggingface/safetensors)."""


def read_config(folder: Path) -> Mapping[str, Any] | None:
    """`config.json`; None for a model of a hub, and where none can be read."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and the byte at which their data begins.

    Raises `OSError` or `ValueError` for a file that cannot be read as one; whether it is whole is not looked at.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        found = json.loads(file.read(min(length, LARGEST_HEADER)))
    if not isinstance(found, dict):
        raise ValueError("its header is no table")
    return found, LENGTH + length


def headers(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The header of each file of weights, in the order of their names; of a damaged one, nothing."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            yield read_header(path)[0]
        except (OSError, ValueError):
            yield {}
