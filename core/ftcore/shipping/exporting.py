"""From the tuned model to artifacts, each proved against how the tuned model answers."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.checkpoints import step_of
from ftcore.disk import require_free
from ftcore.errors import PluginError, RunError
from ftcore.files import content_digest, disk_is_full, file_is_too_large, sync_tree
from ftcore.plugins import Plugins
from ftcore.shipping.verification import BESIDE, folder_of, proof_line, write_verification
from ftcore.values import Artifact, Loaded, PreparedData, Proof, Run, Verdict

EXPORTS, REFERENCE, WORK = "exports", "reference", ".work"
UNFINISHED = ".reference"
WEIGHTS = ".weights"
"""In a reference, the SHA-256 of the saved weights that it is of."""
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
        return artifact.path.is_relative_to(self.exports) and step_below(self.exports, artifact.path) is None

    def again(self, name: str = "") -> str:
        """The command that exports, or publishes, without training."""
        return f"ftcore export {shlex.quote(str(self.run.folder))}{f' --to {name}' if name else ''}"

    @contextmanager
    def writing(self, what: str, name: str = "") -> Iterator[None]:
        """A disk that is full, or a folder that cannot be written, is no mistake of the plugin `name`."""
        try:
            yield
        except (PluginError, OSError) as error:
            fault = _fault_of_the_place(error, self.exports)
            if fault:
                raise RunError(f"{what}: {fault}, then: {self.again(name)}") from error
            raise


def step_below(exports: Path, place: Path) -> int | None:
    """The checkpoint in whose folder below `exports` this lies; None for what lies elsewhere."""
    parts = place.relative_to(exports).parts if place.is_relative_to(exports) else ()
    return step_of(parts[0]) if parts else None


def ship(
    shipment: Shipment,
    loaded: Loaded,
    data: PreparedData,
    *,
    note: Callable[[Artifact], None],
    say: Callable[[str], None],
) -> list[Artifact]:
    """Have every artifact written below `exports`, which is made, and proved.

    Each is given to `note` when it and its proof are on the disk. One whose proof fails stops no other; what an
    exporter raises ends it. What exporters share is removed in any case. Raises `RunError` also for lack of room.
    """
    names = shipment.asked("export")
    written: dict[Path, str] = {}
    artifacts = []
    try:
        if names:
            with shipment.writing(f"export {names[0]}", names[0]):
                _begin(shipment, loaded, data)
        for name in names:
            with shipment.writing(f"export {name}", name):
                for artifact in _written(shipment, name, loaded, data):
                    _require_new(artifact, name, written)
                    artifacts.append(_proved(shipment, artifact))
                    note(artifacts[-1])
                    say(proof_line(artifacts[-1]))
    finally:
        _clear(shipment.exports)
    return artifacts


def write_reference(plugins: Plugins, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
    """A reference in the new folder `folder`; nothing where no plugin writes any."""
    if not plugins.implementers("write_reference"):
        return
    folder.mkdir(parents=True)
    plugins.write_reference(run, loaded, data, folder)


def _clear(exports: Path) -> None:
    for scratch in (WORK, UNFINISHED):
        shutil.rmtree(exports / scratch, ignore_errors=True)


def _begin(shipment: Shipment, loaded: Loaded, data: PreparedData) -> None:
    exports, run = shipment.exports, shipment.run
    exports.mkdir(parents=True, exist_ok=True)
    _clear(exports)  # a killed process has left it
    known = exports / REFERENCE / WEIGHTS
    weights = content_digest(shipment.saved, without=BESIDE)
    if run.profile.export.verify:
        write_reference(shipment.plugins, run, loaded, data, exports / UNFINISHED)
    elif known.is_file() and known.read_text("utf-8") == weights:
        return  # what was proved against it can be proved again
    shutil.rmtree(exports / REFERENCE, ignore_errors=True)
    if (exports / UNFINISHED).is_dir():
        (exports / UNFINISHED / WEIGHTS).write_text(weights, "utf-8")
        (exports / UNFINISHED).rename(exports / REFERENCE)


def _written(shipment: Shipment, name: str, loaded: Loaded, data: PreparedData) -> Iterator[Artifact]:
    """What one plugin writes, if the disk has room for it."""
    size = shipment.sizes.get(name, 0)
    require_free(shipment.exports, size, f"export {name}", f"free some, then: {shipment.again(name)}")
    paths = {"saved": shipment.saved, "exports": shipment.exports}
    for artifact in shipment.plugins.alone(name).export(shipment.run, loaded, data, **paths):
        _require_there(artifact, name, shipment.exports)
        yield artifact


def _proved(shipment: Shipment, written: Artifact) -> Artifact:
    """The artifact with its proof, both on the disk."""
    artifact = attrs.evolve(written, proof=_proof(shipment, written))
    write_verification(artifact)
    sync_tree(folder_of(artifact))
    return artifact


def _proof(shipment: Shipment, artifact: Artifact) -> Proof:
    """What a plugin that knows the artifact finds; else what its exporter says of it."""
    if not shipment.run.profile.export.verify:
        return UNASKED
    proof = shipment.plugins.verify(shipment.run, artifact, shipment.exports / REFERENCE) or artifact.proof
    if proof.verdict is Verdict.NOT_PROVED and not proof.note:
        return attrs.evolve(proof, note=f"no plugin says how {artifact.kind} is proved")
    return proof


def _require_there(artifact: Artifact, name: str, exports: Path) -> None:
    if not artifact.path.exists():
        raise PluginError(f"export: {name} says that it wrote {artifact.path}, which is not there")
    if not artifact.path.resolve().is_relative_to(exports.resolve()) or artifact.path == exports:
        raise PluginError(f"export: {name} wrote {artifact.path}, which is not below the folder for exports, {exports}")


def _require_new(artifact: Artifact, name: str, written: dict[Path, str]) -> None:
    place = artifact.path.resolve()
    if place in written:
        raise PluginError(f"export: {name} wrote {artifact.path}, which {written[place]} has written already")
    written[place] = name


def _fault_of_the_place(error: BaseException, folder: Path) -> str:
    """What is wrong with the disk, and what to do; empty for what is wrong elsewhere."""
    cause = error.__cause__ if isinstance(error, PluginError) else error
    if cause is not None and disk_is_full(cause):
        return f"no space left in {folder}; free some"
    if cause is not None and file_is_too_large(cause):
        return f"a file is larger than {folder} or this shell allows; raise the limit (ulimit -f), or move the run"
    if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
        return f"{cause.filename or folder} cannot be written ({cause.strerror}); change its permissions"
    return ""
