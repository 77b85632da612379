"""All that a run has written down, read from its folder, whether it has ended, runs on, or was killed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.journal.events import read_events
from ftcore.journal.metrics import read_points
from ftcore.journal.writing import EVENTS, METRICS
from ftcore.manifest import Manifest, read_manifest
from ftcore.report.curves import Curve, curves_of
from ftcore.report.labels import LabelledRow, read_labels
from ftcore.runs import state_of
from ftcore.values import Event, EventKind

EVALUATIONS = "evaluations"
OF_STEPS = (EventKind.NOTICE, EventKind.ANSWERS, EventKind.CHECKPOINT)
"""What is no longer so when the run goes back to an earlier step."""


@attrs.frozen(kw_only=True)
class Record:
    """One run. `events` are those that still hold: what came after the step of a resume is left out.

    `state` is the manifest's, or `interrupted` for a run that was killed.
    """

    folder: Path
    manifest: Manifest
    state: str
    curves: Mapping[str, Curve] = attrs.field(factory=dict)
    events: Sequence[Event] = ()
    labels: Sequence[LabelledRow] = ()
    evaluations: Mapping[str, Any] = attrs.field(factory=dict)

    def of(self, kind: EventKind) -> list[Event]:
        """The events of one kind, oldest first."""
        return [event for event in self.events if event.kind is kind]

    def latest(self, kind: EventKind) -> Mapping[str, Any]:
        """The values of the newest event of a kind; none if there is no such event."""
        found = self.of(kind)
        return found[-1].values if found else {}

    @property
    def step(self) -> int:
        """The last step that is known of."""
        logged = [curve.steps[-1] for curve in self.curves.values() if len(curve.steps)]
        return max([self.manifest.step, *logged])

    @property
    def total_steps(self) -> int:
        """Steps that the run takes; 0 while nobody knows."""
        total = self.manifest.total_steps or self.latest(EventKind.STARTED).get("total_steps", 0)
        return total if isinstance(total, int) else 0


def read_record(folder: Path, manifest: Manifest | None = None) -> Record:
    """The run in `folder`. Raises `RunError` when it is none, and `OSError` for a journal that cannot be read.

    `manifest` is given by whoever holds the run, and has not written it yet.
    """
    known = manifest or read_manifest(folder)
    return Record(
        folder=folder,
        manifest=known,
        state=state_of(folder, known),
        curves=curves_of(read_points(folder / METRICS)),
        events=tuple(lasting(read_events(folder / EVENTS))),
        labels=read_labels(folder),
        evaluations=dict(_evaluations(folder)),
    )


def lasting(events: Iterable[Event]) -> list[Event]:
    """Events without those of steps that were taken again after a resume."""
    kept: list[Event] = []
    for event in events:
        if event.kind is EventKind.STARTED:
            start = event.values.get("from_step")
            start = start if isinstance(start, int) else 0
            kept = [each for each in kept if each.kind not in OF_STEPS or each.step <= start]
        kept.append(event)
    return kept


def _evaluations(folder: Path) -> Iterator[tuple[str, Any]]:
    """What `ftcore evaluate` and `ftcore compare` have left."""
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield path.stem, found
