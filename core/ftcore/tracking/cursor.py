"""How far a tracker is: `trackers/NAME.json` in the run's folder, written after everything that it has sent."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from ftcore.files import replace_text

FOLDER = "trackers"


@attrs.frozen(kw_only=True)
class Cursor:
    """Bytes of the journal's files that are sent, and the last step of the points among them.

    `closed` is the state that the tracker was closed with, empty while the run goes on. `error` is why it cannot
    send, empty when it can, and `failures` how often that happened in a row. `said` is what the plugin's process has
    told the user, such as an address to look at.
    """

    metrics_bytes: int = 0
    events_bytes: int = 0
    sent: int = 0
    closed: str = ""
    failures: int = 0
    error: str = ""
    said: tuple[str, ...] = ()

    def failed(self, error: str) -> Cursor:
        """The same place, not left once more."""
        return attrs.evolve(self, failures=self.failures + 1, error=error)

    def succeeded(self) -> Cursor:
        """The same place, without an error."""
        return attrs.evolve(self, failures=0, error="")


def cursor_file(folder: Path, name: str) -> Path:
    """Where the cursor of a tracker lies."""
    return folder / FOLDER / f"{name}.json"


def lock_file(folder: Path, name: str) -> Path:
    """What the one process of a tracker holds."""
    return folder / FOLDER / f".{name}.lock"


def log_file(folder: Path, name: str) -> Path:
    """Where a tracker's process writes what it would show in a terminal."""
    return folder / FOLDER / f"{name}.log"


def read_cursor(path: Path) -> Cursor:
    """The cursor in a file; that of the start without one, or when it is damaged: then points are sent twice."""
    try:
        values = json.loads(path.read_text("utf-8"))
        known = {field.name: values[field.name] for field in attrs.fields(Cursor)}
        cursor = Cursor(**{**known, "said": tuple(known["said"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Cursor()
    return cursor if _is_sound(cursor) else Cursor()


def write_cursor(path: Path, cursor: Cursor) -> None:
    """Replace it. Not forced to the disk: after a power cut some points are sent twice, and a run is not slowed."""
    replace_text(path, json.dumps(attrs.asdict(cursor)) + "\n", durable=False)


def _is_sound(cursor: Cursor) -> bool:
    numbers = (cursor.metrics_bytes, cursor.events_bytes, cursor.sent, cursor.failures)
    counted = all(type(number) is int and number >= 0 for number in numbers)
    return counted and all(isinstance(text, str) for text in (cursor.closed, cursor.error, *cursor.said))
