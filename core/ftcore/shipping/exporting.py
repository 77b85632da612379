"""What is shipped: artifacts, each proved against how the tuned model answers, and then published."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.checkpoints import step_of
from ftcore.disk import require_free
from ftcore.errors import PluginError, RunError
from ftcore.files import disk_is_full, sync_tree
from ftcore.plugins import Plugins
from ftcore.shipping.verification import folder_of, write_verification
from ftcore.values import Artifact, Loaded, PreparedData, Proof, Run, Verdict

EXPORTS, REFERENCE, WORK = "exports", "reference", ".work"
UNASKED = Proof(verdict=Verdict.NOT_PROVED, note="export.verify is false")
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@attrs.frozen(kw_only=True)
class Shipment:
    """One pass of exporters over one tuned model.

    `saved` holds the adapter or the whole model, and `exports` takes the artifacts. `sizes` are the bytes that each
    exporter writes, as far as they are known. Only the plugins named in `names` export and publish; None names all.
    """

    plugins: Plugins
    run: Run
    saved: Path
    exports: Path
    sizes: Mapping[str, int] = attrs.field(factory=dict)
    names: Collection[str] | None = None

    def asked(self, hook: str) -> list[str]:
        """The plugins that implement a hook and are named."""
        return [name for name in self.plugins.implementers(hook) if self.names is None or name in self.names]

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact is one of these weights: below `exports` a checkpoint has a folder of its own."""
        if not artifact.path.is_relative_to(self.exports):
            return False
        return step_of(artifact.path.relative_to(self.exports).parts[0]) is None


def export(shipment: Shipment, loaded: Loaded, data: PreparedData) -> Iterator[Artifact]:
    """Every artifact as it is written below `exports`, which is made, with its proof; both are on the disk by then.

    An artifact whose proof fails stops no other one. What an exporter raises ends it, and what exporters share is
    removed in any case. Raises `RunError` also when an exporter has no room.
    """
    names = shipment.asked("export")
    if not names:
        return
    run, reference = shipment.run, shipment.exports / REFERENCE
    with _writing(shipment.exports, names[0], run):
        shipment.exports.mkdir(parents=True, exist_ok=True)
        for stale in (WORK, REFERENCE):  # a killed process has left it; it may be of other weights
            shutil.rmtree(shipment.exports / stale, ignore_errors=True)
        if run.profile.export.verify:
            write_reference(shipment.plugins, run, loaded, data, reference)
    try:
        for name in names:
            for written in _written(shipment, name, loaded, data):
                artifact = attrs.evolve(written, proof=prove(shipment.plugins, run, written, reference))
                write_verification(artifact)
                sync_tree(folder_of(artifact))
                yield artifact
    finally:
        shutil.rmtree(shipment.exports / WORK, ignore_errors=True)


def write_reference(plugins: Plugins, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
    """A reference in the new folder `folder`; nothing where no plugin writes any."""
    if not plugins.implementers("write_reference"):
        return
    folder.mkdir(parents=True)
    plugins.write_reference(run, loaded, data, folder)


def prove(plugins: Plugins, run: Run, artifact: Artifact, reference: Path) -> Proof:
    """What a plugin that knows the artifact finds; else what its exporter says of it."""
    if not run.profile.export.verify:
        return UNASKED
    proof = plugins.verify(run, artifact, reference) or artifact.proof
    if proof.verdict is Verdict.NOT_PROVED and not proof.note:
        return attrs.evolve(proof, note=f"no plugin says how {artifact.kind} is proved")
    return proof


def publish(shipment: Shipment, artifacts: Sequence[Artifact]) -> Iterator[str]:
    """Every place that the artifacts were sent to. Raises `RunError` when one is not what was trained."""
    for name in shipment.asked("publish"):
        require_proved(artifacts)
        try:
            yield from shipment.plugins.alone(name).publish(shipment.run, artifacts, shipment.saved)
        except RunError as error:
            raise RunError(f"{error}; to publish again: {again(shipment.run, name)}") from error


def require_proved(artifacts: Sequence[Artifact]) -> None:
    """Raise `RunError` that names every artifact whose proof has failed."""
    failed = [failed_proof(artifact) for artifact in artifacts if artifact.proof.verdict is Verdict.FAILED]
    if failed:
        raise RunError("\n".join(failed))


def failed_proof(artifact: Artifact) -> str:
    """One sentence: which artifact, and by how much."""
    figures, note = figures_of(artifact.proof), artifact.proof.note
    return (
        f"export {artifact.kind}: {artifact.path} does not answer like the model that was trained "
        f"({figures}{'; ' if figures and note else ''}{note}); do not ship it"
    )


def figures_of(proof: Proof) -> str:
    """The figures of a proof in a line of their own."""
    return ", ".join(f"{name} {value:.3g}" for name, value in proof.figures.items())


def proof_line(artifact: Artifact) -> str:
    """One artifact with its verdict and figures, for the screen."""
    figures = figures_of(artifact.proof)
    verdict = f"{artifact.proof.verdict}{': ' if figures else ''}{figures}"
    unproved = artifact.proof.verdict is not Verdict.PROVED and artifact.proof.note
    return f"{artifact.kind} {artifact.path.name}: {verdict}{f' ({artifact.proof.note})' if unproved else ''}"


def again(run: Run, name: str) -> str:
    """The command that exports or publishes without training."""
    return f"ftcore export {run.folder} --to {name}"


def _written(shipment: Shipment, name: str, loaded: Loaded, data: PreparedData) -> Iterator[Artifact]:
    """What one plugin writes, if the disk has room for it."""
    size = shipment.sizes.get(name, 0)
    require_free(shipment.exports, size, f"export {name}", f"free some, then: {again(shipment.run, name)}")
    paths = {"saved": shipment.saved, "exports": shipment.exports}
    with _writing(shipment.exports, name, shipment.run):
        for artifact in shipment.plugins.alone(name).export(shipment.run, loaded, data, **paths):
            _require_there(artifact, name, shipment.exports)
            yield artifact


def _require_there(artifact: Artifact, name: str, exports: Path) -> None:
    if not artifact.path.exists():
        raise PluginError(f"export: {name} says that it wrote {artifact.path}, which is not there")
    if not artifact.path.resolve().is_relative_to(exports.resolve()) or artifact.path == exports:
        raise PluginError(f"export: {name} wrote {artifact.path}, which is not below the folder for exports, {exports}")


@contextmanager
def _writing(folder: Path, name: str, run: Run) -> Iterator[None]:
    """A disk that is full, or a folder that cannot be written, is no mistake of a plugin's."""
    try:
        yield
    except (PluginError, OSError) as error:
        _refuse_place(error, folder, name, run)
        raise


def _refuse_place(error: BaseException, folder: Path, name: str, run: Run) -> None:
    cause = error.__cause__ if isinstance(error, PluginError) else error
    if cause is not None and disk_is_full(cause):
        raise RunError(f"export {name}: no space left in {folder}; free some, then: {again(run, name)}") from error
    if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
        place = cause.filename or folder
        text = f"export {name}: {place} cannot be written ({cause.strerror}); change its permissions"
        raise RunError(f"{text}, then: {again(run, name)}") from error
