"""What lies in the files that wandb writes, read back: what was given to it and is not there, must be given again.

A `.wandb` file is a log in LevelDB's format after a header of 7 bytes: blocks of 32 KiB, in which each piece has a
CRC-32, a length and a kind (whole, first, middle, last); a record is a `Record` of `wandb_internal.proto`. See
https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcore.api import RunError

__all__ = ["Log", "Row", "logs_of"]

HEADER, BLOCK = 7, 32768
PIECE = struct.Struct("<IHB")
ENDS = (1, 4)
"""Kinds of pieces that end a record: whole and last."""

Row = Mapping[str, Any]


class Log:
    """One `.wandb` file, which a process may be writing: each call of `rows` goes on where the last one ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = HEADER
        self._part = b""
        self._reached = -1

    @classmethod
    def of(cls, board: Any) -> Log:
        """The file of a run that this process has opened."""
        return cls(Path(board.settings.sync_file))

    def rows(self) -> Iterator[Row]:
        """Rows of the history that have come since, with the `_step` of each."""
        from wandb.proto.wandb_internal_pb2 import Record

        for data in self._records():
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                yield {_name(item): json.loads(item.value_json) for item in record.history.item}

    def wait_for(self, step: int, seconds: float) -> None:
        """Wait until the row with this `_step` has been written. Raises `RunError` when it takes longer."""
        end = time.monotonic() + seconds
        while self._newest() < step:
            if time.monotonic() > end:
                raise RunError(f"plugin.wandb: wandb has not written {self.path} for {seconds:g} seconds; is it full?")
            time.sleep(0.02)

    def _newest(self) -> int:
        self._reached = max((row.get("_step", -1) for row in self.rows()), default=self._reached)
        return self._reached

    def _records(self) -> Iterator[bytes]:
        """Whole records; a piece that is not all there is read again by the next call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._place)
            data = file.read()
        start = self._place
        while piece := _piece(data, self._place - start, self._place):
            kind, content, self._place = piece
            self._part += content
            if kind in ENDS:
                record, self._part = self._part, b""
                yield record


def logs_of(folder: Path, identity: str) -> list[Log]:
    """The files of earlier processes for the run `identity` there, oldest first."""
    return [Log(path) for path in sorted(folder.glob(f"*run-*-{identity}*/run-{identity}.wandb"))]


def _piece(data: bytes, at: int, place: int) -> tuple[int, bytes, int] | None:
    """Kind and content of the piece at `place` of the file, which is `at` in `data`, and the place behind it."""
    left = BLOCK - place % BLOCK
    skipped = left if left < PIECE.size else 0  # what is too short for a piece is filled up
    at += skipped
    if len(data) < at + PIECE.size:
        return None
    _, length, kind = PIECE.unpack_from(data, at)
    end = at + PIECE.size + length
    if kind == 0 or len(data) < end:
        return None
    return kind, data[at + PIECE.size : end], place + skipped + PIECE.size + length


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
