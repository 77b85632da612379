"""An exporter: the saved adapter in one ZIP file with a card that lists every file's SHA-256."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Artifact, Loaded, Problem, Proof, Run, Verdict, hookimpl, option

CARD = "card.json"
OLDEST = (1980, 1, 1, 0, 0, 0)
"""The first date that a ZIP file can hold. A constant one gives equal bytes for equal files."""


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.acme_card]`."""

    contact: str = option(help="whom to ask about the model, such as a team's address")
    compress: bool = option(False, help="deflate the files; weights hardly shrink")


class Card:
    """Packs the saved adapter, or the whole model, into one file to deploy, and reads it back."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> list[Problem]:
        """A contact that is only spaces helps nobody."""
        blank = not self.config.contact.strip()
        return [Problem(key="plugin.acme_card.contact", message="empty; name whom to ask")] if blank else []

    @hookimpl
    def export(self, run: Run, loaded: Loaded, saved: Path, exports: Path) -> Artifact:
        """Write the bundle whole or not at all, and compare what it holds with what was saved."""
        folder = exports / "acme_card"
        folder.mkdir(parents=True, exist_ok=True)
        bundle = folder / f"{run.name}.zip"
        staging = bundle.with_suffix(".partial")
        digests = {path.relative_to(saved).as_posix(): _digest(path.read_bytes()) for path in _files(saved)}
        card = {
            "name": run.name,
            "contact": self.config.contact,
            "base": loaded.base,
            "adapter": loaded.adapter or "none: these are whole weights",
            "sha256": digests,
        }
        self._write(staging, saved, card)
        proof = prove(staging, digests)
        staging.replace(bundle)
        return Artifact(kind="acme_card", path=bundle, proof=proof)

    def _write(self, path: Path, saved: Path, card: Mapping[str, Any]) -> None:
        method = zipfile.ZIP_DEFLATED if self.config.compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(_entry(CARD, method), json.dumps(card, indent=1, ensure_ascii=False))
            for file in _files(saved):
                archive.writestr(_entry(file.relative_to(saved).as_posix(), method), file.read_bytes())


def prove(bundle: Path, digests: Mapping[str, str]) -> Proof:
    """Read every file back and compare it with the digest of the one that was saved."""
    with zipfile.ZipFile(bundle) as archive:
        held = {name: _digest(archive.read(name)) for name in archive.namelist() if name != CARD}
        listed = json.loads(archive.read(CARD))["sha256"]
    wrong = sorted(
        name for name in {*held, *digests, *listed} if not held.get(name) == digests.get(name) == listed.get(name)
    )
    figures = {"files": float(len(held)), "bytes": float(bundle.stat().st_size)}
    if wrong or not held:
        return Proof(verdict=Verdict.FAILED, figures=figures, note=f"{', '.join(wrong) or 'no file'} differs")
    return Proof(verdict=Verdict.PROVED, figures=figures, note="every file was read back; the model was not run")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, OLDEST)
    entry.compress_type = method
    return entry
