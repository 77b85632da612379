"""Files of one JSON object a line, which another process may be writing, or may have been killed while it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Every object from byte `start` on, with the byte behind its line. Lines of another kind are passed over.

    A last line without its line break is not there yet; without the file, there are no lines.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        place = start
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            place += len(raw)
            line = parsed(raw)
            if line is not None:
                yield line, place


def parsed(raw: bytes) -> dict[str, Any] | None:
    """The object of one line; None for a line of another kind."""
    try:
        line = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None
