"""Prove a file or folder that is there already, whoever made it."""

from __future__ import annotations

from pathlib import Path

import attrs

from ftcore.assembly import build_plugins
from ftcore.discovery import discover
from ftcore.errors import ProfileError, RunError
from ftcore.locks import borrowed
from ftcore.manifest import Manifest, read_manifest
from ftcore.plugins import Active, implemented_hooks
from ftcore.report.document import write_report
from ftcore.runs import PROFILE
from ftcore.shipping.against import Against, Say, compared_with, run_of
from ftcore.shipping.exporting import EXPORTS, step_below
from ftcore.shipping.installed import with_defaults
from ftcore.shipping.verification import write_verification
from ftcore.values import Artifact, Profile, Run

TRAINED = ("adapter", "model", "checkpoints")


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
    if against is None and run_folder is not None:
        _require_artifact(path, run_folder)
    with compared_with(place, run_folder, against, say) as found:
        known = _known(run_folder, place)
        proved = _proved(known or Artifact(kind="", path=place), found, say)
    if found.noted and run_folder:
        _note(proved, run_folder, listed=known is not None)
    return proved


def _require_artifact(path: Path, run_folder: Path) -> None:
    """Raise `ProfileError` for a folder with several artifacts, and for what was trained."""
    place = path.resolve()
    paths = [artifact.path for artifact in read_manifest(run_folder).artifacts()]
    if place in (artifact.resolve() for artifact in paths):
        return
    within = [str(artifact) for artifact in paths if place in artifact.resolve().parents]
    if within:
        raise ProfileError(f"{path} is a folder of artifacts; name one of them: {', '.join(within)}")
    parts = place.relative_to(run_folder).parts
    if step_below(run_folder / EXPORTS, place) is not None:
        parts = parts[2:]
    if parts[:1] and parts[0] in TRAINED:
        listed = ", ".join(map(str, paths)) or "it has none"
        raise ProfileError(f"{path} is what was trained, and no artifact; name one of the run's artifacts: {listed}")


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
    found = (with_defaults(installed, name, skip) for name in installed.names)
    return [plugin for plugin in found if plugin and "verify" in implemented_hooks(plugin.cls)]


def _known(run_folder: Path | None, place: Path) -> Artifact | None:
    """The artifact as the run's manifest lists it."""
    listed = read_manifest(run_folder).artifacts() if run_folder else ()
    return next((artifact for artifact in listed if artifact.path.resolve() == place), None)


def _note(artifact: Artifact, run_folder: Path, *, listed: bool) -> None:
    """Keep what was found: beside the artifact, and in the run's manifest and report if they list it."""
    try:
        with borrowed(run_folder):
            write_verification(artifact)
            if listed:
                manifest: Manifest = read_manifest(run_folder).with_artifact(artifact)
                manifest.write(run_folder)
                write_report(run_folder, manifest)
    except OSError as error:
        raise RunError(f"{artifact.path} is {artifact.proof.verdict}, and that cannot be noted: {error}") from error
