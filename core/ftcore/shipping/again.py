"""Export an earlier run, or a checkpoint of one, again, without training."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ftcore.checkpoints import name_of, step_of
from ftcore.display import Display
from ftcore.errors import ProfileError
from ftcore.evaluation.judge import Judge
from ftcore.files import sync_tree
from ftcore.manifest import Manifest, read_manifest
from ftcore.planning.room import export_sizes
from ftcore.reopening import STAGES, Opened, Reopened, opened, reopen
from ftcore.report.document import write_report
from ftcore.runs import PROFILE, saved_in
from ftcore.shipping.against import run_of
from ftcore.shipping.choice import Choice, choose
from ftcore.shipping.delivery import hand_over
from ftcore.shipping.exporting import EXPORTS, Shipment, ship
from ftcore.values import Artifact

Told = Callable[[Artifact], None]


@attrs.frozen(kw_only=True)
class Exported:
    """What one pass wrote, and where it was sent."""

    artifacts: tuple[Artifact, ...]
    published: tuple[str, ...]


def export_again(
    folder: Path,
    *,
    to: Sequence[str] = (),
    quantization: Sequence[str] = (),
    checkpoint: int | None = None,
    sets: Sequence[str] = (),
    allow_changes: bool = False,
    display: Display | None = None,
    told: Told | None = None,
) -> Exported:
    """Export and prove what the run in `folder` has become, or was at a checkpoint, and publish it.

    `to` names the plugins, else those of the run's profile do it. Each artifact with its proof is given to `told` at
    once, also where another one fails. Raises `ProfileError` for a plugin that ships
    nothing, and `RunError` when there is nothing to export, when another process holds the run, or when a proof fails.
    """
    _require_run(folder)
    choice = choose(read_manifest(folder), to=to, quantization=quantization)
    with opened(
        folder,
        sets=[*choice.sets, *sets],
        switch_on=choice.switch_on,
        switch_off=choice.switch_off,
        allow_changes=allow_changes,
        display=display,
    ) as run:
        return Pass(attrs.evolve(run, stages=(*STAGES, "exporting")), choice, checkpoint, told).work()


class Pass:
    """One pass of exports over an opened run."""

    def __init__(self, run: Opened, choice: Choice, checkpoint: int | None, told: Told | None = None) -> None:
        self._opened = run
        self._choice = choice
        self._weights = run.weights(checkpoint)
        self._manifest: Manifest = run.manifest
        exports = run.run.folder / EXPORTS
        self._exports = exports if checkpoint is None else exports / name_of(checkpoint)
        self._place = run.run.folder if checkpoint is None else self._exports
        self._step = checkpoint
        self._told = told

    def work(self) -> Exported:
        """Export if anything is to be exported, then publish."""
        saved = saved_in(self._place)
        shipment = self._shipment(saved or self._place)
        if shipment.asked("export") or saved is None:
            shipment, written = self._written(shipment)
        else:
            written = []
        known = [artifact for artifact in self._manifest.artifacts() if shipment.holds(artifact)]
        there = [artifact for artifact in known if artifact.path.exists()]
        places = hand_over(shipment, written, there, self._opened.display.say)
        return Exported(artifacts=tuple(written), published=tuple(places))

    def _written(self, shipment: Shipment) -> tuple[Shipment, list[Artifact]]:
        opened = self._opened
        shipment = attrs.evolve(shipment, sizes=export_sizes(opened.plugins, opened.run))
        model = reopen(opened)
        model.put(self._weights)
        loaded = model.loaded
        if self._step is not None:
            shipment = attrs.evolve(shipment, saved=self._place / ("adapter" if loaded.adapter else "model"))
            loaded = model.trainer.save(shipment.saved)
            sync_tree(shipment.saved)
            _as_it_was(model, self._step).write(self._place)
        elif loaded.adapter:  # a trainer may hold the model in parts; what it saves is read back whole
            with tempfile.TemporaryDirectory() as scratch:
                loaded = model.trainer.save(Path(scratch, "adapter"))
        opened.stage("exporting")
        written = ship(shipment, loaded, model.prepared.data, note=self._note, say=opened.display.say)
        return shipment, written

    def _shipment(self, saved: Path) -> Shipment:
        opened = self._opened
        names = self._choice.names
        return Shipment(plugins=opened.plugins, run=opened.run, saved=saved, exports=self._exports, names=names)

    def _note(self, artifact: Artifact) -> None:
        """In the manifest and the report at once: a kill loses one artifact at most."""
        self._manifest = self._manifest.with_artifact(artifact)
        self._manifest.write(self._opened.run.folder)
        write_report(self._opened.run.folder, self._manifest)
        if self._told:
            self._told(artifact)


def _require_run(folder: Path) -> None:
    place = folder.resolve()
    owner, step = run_of(place), step_of(place.name)
    if owner is not None and step is not None and not (place / PROFILE).is_file():
        command = f"ftcore export {shlex.quote(str(owner))} --checkpoint {step}"
        raise ProfileError(f"{folder} is of a checkpoint, and no run; run: {command}")


def _as_it_was(model: Reopened, step: int) -> Manifest:
    """The run's manifest at a checkpoint, whose own figures its cards are made from."""
    opened, known = model.opened, model.opened.manifest
    after = Judge(plugins=opened.plugins, run=opened.run, trainer=model.trainer, prepared=model.prepared).whole()
    return attrs.evolve(
        known,
        step=step,
        total_steps=step,
        saved_at=step,
        saved_after=step,
        best={},
        loss={**known.loss, "after": after.loss},
        scores={**known.scores, "after": dict(after.scores)},
        samples=[],
        exports=[],
    )
