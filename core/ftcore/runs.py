"""Run folders: made whole, and listed."""

from __future__ import annotations

import errno
import itertools
import math
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from ftcore.errors import ProfileError, RunError
from ftcore.files import replace_text
from ftcore.journal.metrics import read_points
from ftcore.journal.writing import METRICS
from ftcore.locks import goes_on
from ftcore.manifest import FILE, Manifest, read_manifest
from ftcore.secrets import without_logins
from ftcore.values import RunState

PROFILE = "profile.toml"
INTERRUPTED = "interrupted"
_STAGING = ".new-"


def planned_folder(output_dir: Path, name: str) -> Path:
    """A folder that no run has: `runs/NAME-20261120-140501`, with a number behind it if need be."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"  # local time, as people name folders
    folder, number = output_dir / stem, 1
    while folder.exists():
        number += 1
        folder = output_dir / f"{stem}-{number}"
    return folder.absolute()


def create_run_folder(folder: Path, settings: Mapping[str, Any], manifest: Manifest) -> Path:
    """Write a new run folder beside its place and rename it, so that a kill leaves none half-made.

    Returns where it is: another run may have taken the name since it was planned.
    Raises `ProfileError` when `run.output_dir` cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder.parent))
        try:
            staging.chmod(0o755)
            write_profile(staging, settings)
            manifest.write(staging)
            return _renamed(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ProfileError(f"run.output_dir: {folder.parent} cannot be written: {error.strerror}") from error


def _renamed(staging: Path, folder: Path) -> Path:
    for place in itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))):
        try:
            return staging.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise AssertionError("there is always a next number")


def write_profile(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the resolved profile, whole or not at all.

    The run's own processes, and a resume, find in it what the profile says, also a login in an address: then nobody
    but this user can read it.
    """
    text = tomli_w.dumps(settings)
    replace_text(folder / PROFILE, text, private=without_logins(text) != text)


def saved_in(folder: Path) -> Path | None:
    """Where a trainer has saved the adapter, or the whole model, below `folder`."""
    return next((folder / name for name in ("adapter", "model") if (folder / name).is_dir()), None)


@attrs.frozen(kw_only=True)
class RunInfo:
    """One run in a list. `state` is `interrupted` for a run that was killed."""

    name: str
    folder: Path
    state: str
    created: str
    step: int
    total_steps: int
    loss: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**attrs.asdict(self), "folder": str(self.folder)}


def list_runs(output_dir: Path) -> list[RunInfo]:
    """Every run below `output_dir`, newest first. Folders that are no runs are passed over."""
    if not output_dir.is_dir():
        return []
    found = []
    for manifest in output_dir.glob(f"*/{FILE}"):
        try:
            found.append(run_info(manifest.parent))
        except RunError:
            continue
    return sorted(found, key=lambda info: (info.created, info.name), reverse=True)


def state_of(folder: Path, manifest: Manifest) -> str:
    """How a run stands: `interrupted` when it was killed, else as its manifest says."""
    if manifest.state != RunState.RUNNING or goes_on(folder):
        return str(manifest.state)
    last = read_manifest(folder).state  # it may have ended since, and writes that before it lets go
    return INTERRUPTED if last == RunState.RUNNING else str(last)


def run_info(folder: Path) -> RunInfo:
    """How the run in `folder` stands. Raises `RunError` when it is no run."""
    manifest = read_manifest(folder)
    step, loss = 0, None
    for point in read_points(folder / METRICS):
        if "loss" in point.metrics:
            step, loss = point.step, point.metrics["loss"]
    return RunInfo(
        name=folder.name,
        folder=folder,
        state=state_of(folder, manifest),
        created=manifest.created,
        step=max(manifest.step, step),
        total_steps=manifest.total_steps,
        loss=loss if loss is not None and math.isfinite(loss) else None,
    )
