"""What is shipped: artifacts, each proved against how the tuned model answers, and then published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import RunError
from ftcore.files import sync_tree, write_json
from ftcore.manifest import artifact_as_json
from ftcore.plugins import Plugins
from ftcore.values import Artifact, Loaded, PreparedData, Proof, Run, Verdict

REFERENCE, WORK, VERIFICATION = "reference", ".work", "verification.json"
UNASKED = Proof(verdict=Verdict.NOT_PROVED, note="export.verify is false")


def export(
    plugins: Plugins, run: Run, loaded: Loaded, data: PreparedData, *, saved: Path, exports: Path
) -> Iterator[Artifact]:
    """Every artifact as it is written below `exports`, with its proof; both are on the disk by then.

    What an exporter raises ends it. What exporters share is removed in any case.
    """
    if not plugins.implementers("export"):
        return
    reference = exports / REFERENCE
    if run.profile.export.verify:
        write_reference(plugins, run, loaded, data, reference)
    try:
        for written in plugins.export(run, loaded, data, saved=saved, exports=exports):
            artifact = attrs.evolve(written, proof=prove(plugins, run, written, reference))
            write_verification(artifact)
            sync_tree(_folder_of(artifact))
            yield artifact
    finally:
        shutil.rmtree(exports / WORK, ignore_errors=True)


def write_reference(plugins: Plugins, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
    """A new reference in `folder`, in place of an older one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plugins.write_reference(run, loaded, data, folder)


def prove(plugins: Plugins, run: Run, artifact: Artifact, reference: Path) -> Proof:
    """What a plugin that knows the artifact finds; else what its exporter says of it."""
    if not run.profile.export.verify:
        return UNASKED
    return plugins.verify(run, artifact, reference) or artifact.proof


def publish(plugins: Plugins, run: Run, artifacts: Sequence[Artifact], saved: Path) -> Iterator[str]:
    """Every place that the artifacts were sent to. Raises `RunError` when one is not what was trained."""
    require_proved(artifacts)
    yield from plugins.publish(run, artifacts, saved)


def require_proved(artifacts: Sequence[Artifact]) -> None:
    """Raise `RunError` for the first artifact whose proof has failed."""
    for artifact in artifacts:
        if artifact.proof.verdict is Verdict.FAILED:
            raise RunError(failed_proof(artifact))


def failed_proof(artifact: Artifact) -> str:
    """One sentence: which artifact, and by how much."""
    figures = ", ".join(f"{name} {value:.3g}" for name, value in artifact.proof.figures.items())
    return (
        f"export {artifact.kind}: {artifact.path} does not answer like the model that was trained "
        f"({figures}{'; ' if figures and artifact.proof.note else ''}{artifact.proof.note}); do not ship it"
    )


def write_verification(artifact: Artifact) -> None:
    """Put the proof into `verification.json` beside the artifact, among those of its neighbours."""
    path = _folder_of(artifact) / VERIFICATION
    others = [entry for entry in _entries(path) if entry["path"] != artifact.path.name]
    entry = {**artifact_as_json(artifact), "path": artifact.path.name}
    write_json(path, {"artifacts": sorted([*others, entry], key=lambda each: str(each["path"]))})


def _entries(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        return list(json.loads(path.read_text("utf-8"))["artifacts"])
    except (OSError, ValueError, KeyError):
        return []


def _folder_of(artifact: Artifact) -> Path:
    return artifact.path if artifact.path.is_dir() else artifact.path.parent
