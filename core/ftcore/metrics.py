"""`metrics.jsonl`: one JSON object a line, the truth about what a run measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ftcore.files import finite, replace_text

Line = dict[str, Any]


class MetricsLog:
    """Appends to `metrics.jsonl`; every line is handed to the system at once, so that a kill loses none."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. Not-a-number and infinity, which JSON lacks, are written as null."""
        self._file.write(json.dumps({"step": step, **finite(metrics)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[Line]:
    """Every whole line; a torn last line of a killed run is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line


def cut_metrics(path: Path, step: int) -> None:
    """Drop what was logged after `step`, since a resumed run writes it again."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
    replace_text(path, "".join(kept))
