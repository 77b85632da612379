"""What an artifact is compared with: the reference of a run, of a checkpoint, or of a folder with a model."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.assembly import build_plugins
from ftcore.checkpoints import name_of
from ftcore.discovery import discover
from ftcore.errors import ProfileError, RunError
from ftcore.manifest import read_manifest
from ftcore.plugins import Plugins
from ftcore.preflight import CORE_TABLES
from ftcore.runs import PROFILE
from ftcore.shipping.exporting import EXPORTS, REFERENCE, step_below, write_reference
from ftcore.shipping.installed import with_defaults
from ftcore.structure import structure
from ftcore.tables import ModelTable, TrainTable
from ftcore.values import Profile, Rows, Run

Say = Callable[[str], None]
SHORTEST = 8
"""`train.max_length` while no row is trained: a loader may refuse one that the model cannot hold."""


@attrs.frozen(kw_only=True)
class Against:
    """What an artifact is compared with: a folder that `write_reference` wrote, of a run or of a model's folder.

    `noted` says that the artifact is one of that run's, so that the run's folder keeps what is found.
    """

    reference: Path
    run: Run
    noted: bool = False


def run_of(place: Path) -> Path | None:
    """The run in whose folder this lies."""
    return next((folder for folder in place.parents if (folder / PROFILE).is_file()), None)


@contextmanager
def compared_with(place: Path, run_folder: Path | None, against: Path | None, say: Say) -> Iterator[Against]:
    """What the artifact at `place`, which may lie in a run's folder, is compared with; see `verify_path`."""
    if against is None and run_folder is None:
        raise ProfileError(f"{place} lies in no run; say what to compare it with: --against RUN or --against FOLDER")
    if against is None:
        assert run_folder is not None  # noqa: S101
        yield Against(reference=_reference_of(place, run_folder), run=_run_in(run_folder), noted=True)
        return
    folder = against.resolve()
    if not folder.is_dir():
        raise ProfileError(f"--against {against}: no such folder; name a run, or a folder with a model")
    if (folder / PROFILE).is_file():
        yield Against(reference=_reference_of(folder, folder), run=_run_in(folder))
    elif (folder / REFERENCE).is_dir():
        owner = run_of(folder)
        yield Against(reference=folder / REFERENCE, run=_run_in(owner) if owner else _model_run(folder, folder))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            run = _model_run(folder, Path(scratch))
            yield Against(reference=_written_reference(run, Path(scratch, REFERENCE), say), run=run)


def _reference_of(place: Path, run_folder: Path) -> Path:
    """That of the artifact's own weights: a checkpoint's artifacts have one of their own."""
    exports = run_folder / EXPORTS
    step = step_below(exports, place)
    whose = "" if step is None else f" --checkpoint {step}"
    folder = (exports if step is None else exports / name_of(step)) / REFERENCE
    if not folder.is_dir():
        text = (
            f"{folder.parent} has no reference to compare with, which is written when something is exported and proved"
        )
        raise RunError(f"{text}; run: ftcore export {shlex.quote(str(run_folder))}{whose} --set export.verify=true")
    return folder


def _run_in(folder: Path) -> Run:
    """As the run's manifest has it, without its plugins."""
    manifest = read_manifest(folder)
    tables = {name: structure(cls, manifest.settings.get(name, {}), (name,)) for name, cls in CORE_TABLES.items()}
    sound: dict[str, Any] = {name: value for name, (value, mistakes) in tables.items() if not mistakes}
    return Run(name=manifest.name, folder=folder, profile=Profile(**sound), resumed=True)


def _model_run(model: Path, folder: Path) -> Run:
    profile = Profile(model=ModelTable(id=str(model)), train=TrainTable(max_length=SHORTEST))
    return Run(name=model.name, folder=folder, profile=profile)


def _written_reference(run: Run, folder: Path, say: Say) -> Path:
    """How the model of a folder answers, by way of the plugins that need no table."""
    installed = discover()
    active = [plugin for name in installed.fallbacks if (plugin := with_defaults(installed, name, say, fallback=True))]
    plugins, _ = build_plugins(active, report=say)
    if not plugins.implementers("write_reference") or not plugins.implementers("load_model"):
        raise ProfileError("no installed plugin loads a model's folder and writes how it answers; name a run instead")
    _require_sound(plugins, run, "load_model", "write_reference")
    processor = plugins.load_processor(run, Rows(train=(), validation=(), fingerprint=""))
    say(f"asking {run.profile.model.id}")
    write_reference(plugins, run, plugins.load_model(run, processor, None), None, folder)
    return folder


def _require_sound(plugins: Plugins, run: Run, *hooks: str) -> None:
    names = {name for hook in hooks for name in plugins.implementers(hook)}
    errors = [p for name in sorted(names) for p in plugins.alone(name).check(run) if p.severity == "error"]
    if errors:
        raise ProfileError(errors)
