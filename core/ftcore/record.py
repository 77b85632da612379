"""What a run writes down about itself: the manifest, and the journal beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.display import Display
from ftcore.errors import RunError
from ftcore.evaluation.judge import Judgement
from ftcore.journal.writing import Journal
from ftcore.manifest import Manifest, artifact_as_json, ledger_as_json
from ftcore.parameters import count_parameters
from ftcore.report.labels import keep_labels
from ftcore.resuming import changed_since, fingerprint_of
from ftcore.values import Artifact, EventKind, Loaded, Run

UNJUDGED: Mapping[str, Any] = {
    "loss": {"before": None, "after": None},
    "scores": {"before": {}, "after": {}},
    "samples": [],
}
"""What the untrained model was judged by is not known any more once rows or base model are others."""


class RunRecord:
    """The manifest as it is now, and the journal.

    Of several processes only the main one writes; what the others are told here stays with them.
    """

    def __init__(self, run: Run, manifest: Manifest, display: Display) -> None:
        self.manifest = manifest
        self.journal = Journal(run.folder, display) if run.world.is_main else None
        self._run = run
        self._display = display

    def update(self, manifest: Manifest) -> None:
        """Go on with this manifest, on the disk too."""
        self.manifest = manifest
        if self._run.world.is_main:
            manifest.write(self._run.folder)

    def event(self, kind: EventKind, /, **values: Any) -> None:
        """A line of `events.jsonl`."""
        if self.journal is not None:
            self.journal.event(kind, **values)

    def close(self) -> None:
        """Nothing more is written down."""
        if self.journal is not None:
            self.journal.close()

    def data(self, prepared: Prepared) -> None:
        """The rows, and where each went. Raises `RunError` for others than the run began with."""
        ledger = ledger_as_json(prepared.data.ledger)
        self._refuse_change("data", self.manifest.data.get("fingerprint"), prepared.fingerprint)
        self.update(attrs.evolve(self.manifest, data={"fingerprint": prepared.fingerprint, "ledger": ledger}))
        self.event(EventKind.DATA, ledger=ledger, proved=prepared.proved)
        if self._run.world.is_main:
            keep_labels(self._run.folder, prepared, self._display.say)
        dropped = "".join(f", {count} dropped: {reason}" for reason, count in ledger["dropped"].items())
        again = f" (and {ledger['repeated']} again)" if ledger["repeated"] else ""
        rows = f"{ledger['rows']} rows: {ledger['trained']} to train on{again}, {ledger['held_out']} held out{dropped}"
        self._display.say(f"{rows}; labels proved on {prepared.proved}")

    def model(self, loaded: Loaded) -> None:
        """The base model. Raises `RunError` for another than the run began with."""
        fingerprint = fingerprint_of(loaded)
        self._refuse_change("model", self.manifest.model.get("fingerprint"), fingerprint)
        model = {"base": loaded.base, "revision": loaded.revision, "fingerprint": fingerprint}
        model["license"] = loaded.license  # for the cards
        self.update(attrs.evolve(self.manifest, model=model))

    def parameters(self, loaded: Loaded) -> None:
        """How large the model is, once its adapters are on it."""
        counted = count_parameters(loaded.model)
        model = {**self.manifest.model, **({"parameters": counted} if counted else {})}
        self.update(attrs.evolve(self.manifest, model=model))
        self.event(EventKind.MODEL, **model)

    def going_on(self, step: int) -> None:
        """The step of the checkpoint that a resumed run goes on from; of several attempts, that of the first."""
        if self.manifest.resumes and "from_step" not in self.manifest.last_resume:
            self.update(self._noted(from_step=step))

    def answers(self, when: str, judgement: Judgement) -> None:
        """What the model made of held-out rows; nothing where none are held out."""
        if judgement.loss is not None:
            self.event(EventKind.ANSWERS, when=when, **judgement.as_json())

    def artifact(self, artifact: Artifact) -> None:
        """An export with its proof, in the place of an older one of the same path."""
        self.update(self.manifest.with_artifact(artifact))
        self.event(EventKind.ARTIFACT, **artifact_as_json(artifact))

    def _refuse_change(self, what: str, before: str | None, now: str) -> None:
        changed = changed_since(what, before, now)
        if not changed:
            return
        if not self.manifest.last_resume.get("changes_allowed"):
            raise RunError(f"{changed}; start a new run, or pass --allow-changes to go on with it")
        self._display.say(f"warning: {changed}")
        self.update(attrs.evolve(self._noted(**{f"{what}_changed_from": before}), **UNJUDGED))

    def _noted(self, **values: Any) -> Manifest:
        resumes = [*self.manifest.resumes[:-1], {**self.manifest.last_resume, **values}]
        return attrs.evolve(self.manifest, resumes=resumes)
