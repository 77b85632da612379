"""Checkpoints that are there whole or not at all, and are read only after every byte has been verified."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.errors import RunError
from ftcore.files import disk_is_full, file_digest, sync_folder, sync_tree

CHECKSUMS = "checksums.json"
_NAME = re.compile(r"step-(\d{6,})")
_STAGING = ".staging-"

Report = Callable[[str], None]


def step_of(name: str) -> int | None:
    """The step that a checkpoint's folder is named after; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def name_of(step: int) -> str:
    """How the folder of a step's checkpoint is called, such as `step-000200`."""
    return f"step-{step:06d}"


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A committed checkpoint of the state after `step`."""

    step: int
    folder: Path


@attrs.frozen(kw_only=True)
class CheckpointStore:
    """The checkpoints of one run, below `folder`. Order is by step number, never by clock.

    The `keep` newest that verify stay, and the best one that does: `ranked` has those of some steps that were
    evaluated, the best first.
    """

    folder: Path
    keep: int
    ranked: Callable[[Sequence[int]], Sequence[int]] = attrs.field(default=lambda _: (), eq=False)
    _sound: set[int] = attrs.field(factory=set, init=False, eq=False, repr=False)

    def all(self) -> list[Checkpoint]:
        """Every committed checkpoint, verified or not, oldest step first."""
        if not self.folder.is_dir():
            return []
        steps = [(entry, step_of(entry.name)) for entry in self.folder.iterdir() if entry.is_dir()]
        found = [Checkpoint(step=step, folder=entry) for entry, step in steps if step is not None]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def newest(self, report: Report) -> Checkpoint | None:
        """The newest checkpoint that verifies; each one that does not is reported with its reason."""
        return self._first_sound(reversed(self.all()), report)

    def best(self, report: Report | None) -> Checkpoint | None:
        """The same of those that were evaluated, the best first; without `report`, whether it verifies or not."""
        ranked = [self.at(step) for step in self.ranked([checkpoint.step for checkpoint in self.all()])]
        return self._first_sound(ranked, report) if report else next(iter(ranked), None)

    def named(self, step: int) -> Checkpoint:
        """The checkpoint of `step`. Raises `RunError` when it is missing or does not verify."""
        found = next((checkpoint for checkpoint in self.all() if checkpoint.step == step), None)
        if found is None:
            steps = ", ".join(str(checkpoint.step) for checkpoint in self.all()) or "none"
            raise RunError(f"no checkpoint of step {step} in {self.folder}; there are: {steps}")
        fault = verify(found.folder)
        if fault:
            raise RunError(f"checkpoint {found.folder} is damaged: {fault}; resume from another one")
        return found

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, which is known to be there."""
        return Checkpoint(step=step, folder=self.folder / name_of(step))

    def staging(self, step: int) -> Path:
        """Where the checkpoint of `step` is written before it is committed."""
        return self.folder / f"{_STAGING}{step:06d}"

    @contextmanager
    def commit(self, step: int) -> Iterator[Path]:
        """A staging folder that becomes the checkpoint of `step` on a clean exit, and vanishes otherwise."""
        staging = self.staging(step)
        target = self.at(step).folder
        self.clean()
        try:
            staging.mkdir(parents=True)
            yield staging
            _write_checksums(staging)
            sync_tree(staging)
            if target.exists():  # written before a resume from an older step
                self._remove(target)
            staging.rename(target)
            sync_folder(self.folder)
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            if disk_is_full(error):
                raise RunError(_no_space(self.folder, step)) from error
            raise
        self._sound.add(step)
        self._drop_old()

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        for staging in self.folder.glob(f"{_STAGING}*"):
            shutil.rmtree(staging)

    def drop_after(self, step: int) -> None:
        """Remove checkpoints past `step`, which a run that resumes from there writes again."""
        for checkpoint in self.all():
            if checkpoint.step > step:
                self._remove(checkpoint.folder)

    def _first_sound(self, checkpoints: Iterable[Checkpoint], report: Report) -> Checkpoint | None:
        for checkpoint in checkpoints:
            fault = verify(checkpoint.folder)
            if not fault:
                self._sound.add(checkpoint.step)
                return checkpoint
            report(f"skipping checkpoint {checkpoint.folder.name}: {fault}")
        return None

    def _drop_old(self) -> None:
        there = self.all()
        if len(there) <= self.keep:
            return
        sound = [checkpoint.step for checkpoint in there if self._is_sound(checkpoint)]
        kept = {*sound[-self.keep :], *self.ranked(sound)[:1]}
        for checkpoint in there:
            if checkpoint.step not in kept:
                self._remove(checkpoint.folder)

    def _is_sound(self, checkpoint: Checkpoint) -> bool:
        """Whether it verifies; what this process has written or verified is not read again."""
        if checkpoint.step not in self._sound and not verify(checkpoint.folder):
            self._sound.add(checkpoint.step)
        return checkpoint.step in self._sound

    def _remove(self, folder: Path) -> None:
        self._sound.discard(step_of(folder.name) or 0)
        gone = self.folder / f"{_STAGING}gone-{folder.name}"
        folder.rename(gone)  # at once, so that a kill leaves no checkpoint in pieces; `clean` takes the rest
        shutil.rmtree(gone)


def verify(folder: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty if nothing is."""
    try:
        listed: dict[str, str] = json.loads((folder / CHECKSUMS).read_text("utf-8"))["sha256"]
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{CHECKSUMS} cannot be read: {error}"
    if not isinstance(listed, dict) or not listed:
        return f"{CHECKSUMS} cannot be read: it lists no files"
    present = {path.relative_to(folder).as_posix() for path in _files(folder)}
    missing = sorted(set(listed) - present)
    if missing:
        return f"{missing[0]} is missing"
    return _changed(folder, listed)


def _changed(folder: Path, listed: Mapping[str, str]) -> str:
    for name, digest in listed.items():
        try:
            if file_digest(folder / name) != digest:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS)


def _write_checksums(folder: Path) -> None:
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)}
    (folder / CHECKSUMS).write_text(json.dumps({"sha256": digests}, indent=1), "utf-8")


def _no_space(folder: Path, step: int) -> str:
    free = shutil.disk_usage(folder).free / 2**20
    return (
        f"no space left for the checkpoint of step {step} in {folder} ({free:.0f} MiB free); "
        "free some and resume, older checkpoints are intact"
    )
