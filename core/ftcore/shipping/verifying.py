"""Prove a file or folder that is there already, whoever made it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.discovery import Installed, Source, config_class, discover
from ftcore.errors import PluginError, ProfileError, RunError
from ftcore.manifest import Manifest, read_manifest
from ftcore.plugins import Active, Plugins, build_plugins, implemented_hooks
from ftcore.preflight import CORE_TABLES
from ftcore.report import write_report
from ftcore.runs import PROFILE, locked
from ftcore.shipping.exporting import EXPORTS, REFERENCE, write_reference
from ftcore.shipping.verification import write_verification
from ftcore.structure import structure
from ftcore.tables import ModelTable, TrainTable
from ftcore.values import Artifact, Profile, Rows, Run

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


def verify_path(path: Path, against: Path | None, say: Say) -> Artifact:
    """The artifact at `path` with its proof. What cannot be asked is told to `say`.

    `against` is a run, a run's folder of exports, or a folder with a model; without it, the run whose folder the
    artifact lies in. Raises `ProfileError` when there is nothing to compare with, or no plugin knows such an artifact.
    """
    if not path.exists():
        raise ProfileError(f"no such file or folder: {path}")
    place = path.resolve()
    if (place / PROFILE).is_file():
        artifacts = ", ".join(str(artifact.path) for artifact in read_manifest(place).artifacts()) or "it has none"
        raise ProfileError(f"{path} is a run; name one of its artifacts: {artifacts}")
    run_folder = run_of(place)
    with _found(place, run_folder, against, say) as found:
        known = _known(run_folder, place)
        proved = _proved(known or Artifact(kind="", path=place), found, say)
    if found.noted and run_folder:
        _note(proved, run_folder, listed=known is not None)
    return proved


def run_of(place: Path) -> Path | None:
    """The run in whose folder this lies."""
    return next((folder for folder in place.parents if (folder / PROFILE).is_file()), None)


@contextmanager
def _found(place: Path, run_folder: Path | None, against: Path | None, say: Say) -> Iterator[Against]:
    if against is None and run_folder is None:
        raise ProfileError(f"{place} lies in no run; say what to compare it with: --against RUN or --against FOLDER")
    if against is None:
        assert run_folder is not None  # noqa: S101
        yield Against(reference=_nearest_reference(place, run_folder), run=_run_in(run_folder), noted=True)
        return
    folder = against.resolve()
    if not folder.is_dir():
        raise ProfileError(f"--against {against}: no such folder; name a run, or a folder with a model")
    if (folder / PROFILE).is_file():
        yield Against(reference=_nearest_reference(folder / EXPORTS / "x", folder), run=_run_in(folder))
    elif (folder / REFERENCE).is_dir():
        owner = run_of(folder)
        yield Against(reference=folder / REFERENCE, run=_run_in(owner) if owner else _model_run(folder, folder))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            run = _model_run(folder, Path(scratch))
            yield Against(reference=_written_reference(run, Path(scratch, REFERENCE), say), run=run)


def _nearest_reference(place: Path, run_folder: Path) -> Path:
    """That of the artifact's own checkpoint, if it is one's."""
    inside = [folder for folder in place.parents if folder.is_relative_to(run_folder)]
    found = next((folder / REFERENCE for folder in inside if (folder / REFERENCE).is_dir()), None)
    if found is None:
        text = f"{run_folder} has no reference to compare with, which is written when something is exported and proved"
        raise RunError(f"{text}; run: ftcore export {run_folder} --set export.verify=true")
    return found


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
    active = [plugin for name in installed.fallbacks if (plugin := _active(installed, name, say, fallback=True))]
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


def _proved(artifact: Artifact, against: Against, say: Say) -> Artifact:
    """Ask every installed plugin that proves something; the first that knows the artifact answers."""
    skipped: list[str] = []
    plugins, _ = build_plugins(_verifiers(skipped.append), report=say)
    for name in plugins.implementers("verify"):
        alone = plugins.alone(name)
        errors = [problem.message for problem in alone.check(_anyones()) if problem.severity == "error"]
        if errors:
            skipped.append(f"{name} is not asked: {errors[0]}")
            continue
        proof = alone.verify(against.run, artifact, against.reference)
        if proof is not None:
            return attrs.evolve(artifact, kind=artifact.kind or name, proof=proof)
    for reason in skipped:
        say(reason)
    asked = ", ".join(plugins.implementers("verify")) or "none is installed"
    raise ProfileError(f"{artifact.path}: no plugin knows how this is proved (asked: {asked})")


def _anyones() -> Run:
    """A run about no model: what keeps a plugin from asking its runtime, whatever it would be asked about."""
    return Run(name="verify", folder=Path("verify"), profile=Profile())


def _verifiers(skip: Say) -> list[Active]:
    installed = discover()
    found = (_active(installed, name, skip) for name in installed.names)
    return [plugin for plugin in found if plugin and "verify" in implemented_hooks(plugin.cls)]


def _active(installed: Installed, name: str, skip: Say, *, fallback: bool = False) -> Active | None:
    """A plugin with its defaults; None, and why, for one that is broken or has an option without one."""
    try:
        source: Source = installed.find(name)
        cls = source.load()
    except PluginError as error:
        skip(str(error))
        return None
    config, mistakes = structure(config_class(cls), {}, ("plugin", name))
    if mistakes:
        if "verify" in implemented_hooks(cls):
            key, text = mistakes[0]
            skip(f"{name} is not asked: {'.'.join(key)}: {text}")
        return None
    return Active(source=source, cls=cls, config=config, fallback=fallback)


def _known(run_folder: Path | None, place: Path) -> Artifact | None:
    """The artifact as the run's manifest lists it."""
    listed = read_manifest(run_folder).artifacts() if run_folder else ()
    return next((artifact for artifact in listed if artifact.path.resolve() == place), None)


def _note(artifact: Artifact, run_folder: Path, *, listed: bool) -> None:
    """Keep what was found: beside the artifact, and in the run's manifest and report if they list it."""
    try:
        with locked(run_folder):
            write_verification(artifact)
            if listed:
                manifest: Manifest = read_manifest(run_folder).with_artifact(artifact)
                manifest.write(run_folder)
                write_report(run_folder, manifest)
    except OSError as error:
        raise RunError(f"{artifact.path} is {artifact.proof.verdict}, and that cannot be noted: {error}") from error
