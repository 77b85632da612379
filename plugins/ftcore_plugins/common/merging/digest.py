"""What a merged folder was made from, so that it is used again for the same weights only. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

FILE = ".merged.json"
SMALL = 64 * 2**20
SAMPLES, SAMPLE = 256, 4096


def digest_of(files: Iterable[Path], *settings: str) -> str:
    """A SHA-256 over names and content of the files, and over the settings.

    Of a file over `SMALL` bytes, length and time of change count, and its header and bytes all over it: training
    changes every weight.
    """
    total = hashlib.sha256(json.dumps(settings).encode())
    for path in files:
        total.update(path.name.encode() + b"\0" + _content(path))
    return total.hexdigest()


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= SMALL:
            return hashlib.file_digest(file, "sha256").digest()
        found = hashlib.sha256(f"{size} {path.stat().st_mtime_ns}".encode())
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE) // (SAMPLES - 1))
            found.update(file.read(SAMPLE))
        return found.digest()


def sign(folder: Path, digest: str, details: dict[str, str]) -> None:
    """Keep the digest in the folder, with the sizes of what is there now."""
    document = {"digest": digest, "details": details, "files": _sizes(folder)}
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def signed(folder: Path, digest: str) -> dict[str, str] | None:
    """The details of a folder that was made from the same, and is whole; else None."""
    try:
        document = json.loads((folder / FILE).read_text("utf-8"))
        whole = document["files"].items() <= _sizes(folder).items()
        return dict(document["details"]) if document["digest"] == digest and whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _sizes(folder: Path) -> dict[str, int]:
    kept = (path for path in folder.iterdir() if path.is_file() and path.suffix in {".safetensors", ".json", ".jinja"})
    return {path.name: path.stat().st_size for path in kept if path.name not in {FILE, "verification.json"}}
