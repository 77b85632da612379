"""List what runs share of prepared rows, or clear it."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from ftcore.cli.common import print_json, table
from ftcore.data.cache import Entry, clear, default_folder, entries
from ftcore.errors import ProfileError

DAY = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore cache`."""
    parser.add_argument("action", nargs="?", choices=["list", "clear"], default="list", help="default: list")
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="the cache, if a profile sets run.cache_dir")
    parser.add_argument(
        "--unused-days", type=float, metavar="N", help="clear only what no run has asked for in N days (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the entries, or those that were cleared, as JSON")


def main(parsed: argparse.Namespace) -> int:
    """List or clear."""
    folder = parsed.dir or default_folder()
    if parsed.dir and not parsed.dir.is_dir():
        raise ProfileError(f"--dir: no such folder: {parsed.dir}")
    if parsed.action == "clear":
        return _clear(folder, parsed.unused_days, as_json=parsed.json)
    if parsed.unused_days is not None:
        raise ProfileError("--unused-days is for `ftcore cache clear`")
    found = entries(folder)
    if parsed.json:
        print_json({"folder": str(folder), "bytes": _total(found), "entries": [_as_json(entry) for entry in found]})
    elif not found:
        print(f"nothing in {folder}")
    else:
        rows = [[entry.kind, entry.key[:12], entry.run, shown_size(entry.bytes), _date(entry.used)] for entry in found]
        table(["kind", "key", "made by run", "size", "last used"], rows)
        print(f"{shown_size(_total(found))} in {folder}")
    return 0


def _clear(folder: Path, unused_days: float | None, *, as_json: bool) -> int:
    if unused_days is not None and not unused_days >= 0:
        raise ProfileError(f"--unused-days {unused_days}: write a number of days, 0 or more")
    before = float("inf") if unused_days is None else time.time() - unused_days * DAY
    removed = clear(folder, unused_since=before)
    busy = sum(entry.used < before for entry in entries(folder))
    if as_json:
        print_json({"folder": str(folder), "bytes": _total(removed), "cleared": [_as_json(entry) for entry in removed]})
    else:
        stay = f"; {busy} that a run is reading stay" if busy else ""
        print(f"cleared {len(removed)} entries, {shown_size(_total(removed))}, in {folder}{stay}")
    return 0


def shown_size(count: float) -> str:
    """Bytes as a person reads them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _total(found: list[Entry]) -> int:
    return sum(entry.bytes for entry in found)


def _as_json(entry: Entry) -> dict[str, object]:
    values = {"kind": entry.kind, "key": entry.key, "run": entry.run, "folder": str(entry.folder)}
    return {**values, "bytes": entry.bytes, "last_used": _date(entry.used)}


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
