"""Points, events, a journal and a picture, for the tests of the trackers."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Event, EventKind, Point

ROW = {"origin": "rows.jsonl:1", "prompt": "go <b>|left", "expected": "left", "answer": "`right`\nnow"}


def point(step: int, **metrics: float) -> Point:
    return Point(step=step, time=1e9 + step, metrics=metrics or {"loss": 9.0 / step})


def event(kind: EventKind, step: int = 0, /, **values: Any) -> Event:
    return Event(kind=kind, step=step, time=1e9 + step, values=values)


def write_journal(folder: Path, points: Sequence[Point], events: Sequence[Event] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": each.step, "time": each.time, **each.metrics} for each in points]
    told = [{"event": each.kind, "step": each.step, "time": each.time, **each.values} for each in events]
    for name, all_of_it in (("metrics", lines), ("events", told)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in all_of_it), "utf-8")


def png(path: Path, width: int = 3, height: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    pieces = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)))
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (*pieces, (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
