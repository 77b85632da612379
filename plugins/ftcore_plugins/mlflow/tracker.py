"""Sends what a run writes down to its MLflow run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Event, EventKind, Point, Run, RunState, without_secrets
from ftcore_plugins.common.tracking import answers, artifact_facts, counts, flat, judged, model_facts, noticed
from ftcore_plugins.mlflow.address import Place
from ftcore_plugins.mlflow.faults import mlflow_errors
from ftcore_plugins.mlflow.files import Files
from ftcore_plugins.mlflow.history import History, mark_of
from ftcore_plugins.mlflow.models import send_model
from ftcore_plugins.mlflow.names import batches, clean, metrics_of
from ftcore_plugins.mlflow.notes import Notes
from ftcore_plugins.mlflow.remembered import Remembered
from ftcore_plugins.mlflow.tables import answers_table, counts_picture, counts_table

__all__ = ["RunTracker"]

STATES = {RunState.FINISHED: "FINISHED", RunState.STOPPED: "KILLED", RunState.FAILED: "FAILED"}
AT_ONCE = 1000
"""Metrics of one request, at most."""

TABLES_TAG, TABLES = "mlflow.loggedArtifacts", 50
"""Where MLflow's page of tables looks, and how many are named there: a tag is short."""

DOCUMENTS = ("manifest.json", "report.json", "report.html")


@attrs.define(kw_only=True)
class RunTracker:
    """One MLflow run. What it is given twice becomes one point: the same name, step, time and value are one in MLflow.

    `adopted` says that the MLflow run was there before this process, and may have points already.
    """

    config: Any
    run: Run
    place: Place
    client: Any
    remembered: Remembered
    notes: Notes
    files: Files
    adopted: bool
    _history: History | None = None
    _last: int = 0

    def send(self, points: Sequence[Point]) -> None:
        """In as few requests as MLflow allows."""
        with mlflow_errors(self.place):
            if self.adopted and self._history is None:
                self._history = History(self.client, self.remembered.run_id)
            metrics = [metric for point in points for metric in self._fresh(point)]
            for batch in batches(metrics, AT_ONCE):
                self.client.log_batch(self.remembered.run_id, metrics=batch, synchronous=True)
        self._last = max([self._last, *(point.step for point in points)])

    def tell(self, event: Event) -> None:
        """What there is a place for in MLflow."""
        with mlflow_errors(self.place):
            match event.kind:
                case EventKind.STARTED:
                    self._started(event)
                case EventKind.DATA:
                    ledger, proved = event.values.get("ledger"), event.values.get("proved")
                    self.notes.tags(flat({"data": ledger, "proof": {"labels_on": proved}}))
                case EventKind.MODEL:
                    self.notes.params(model_facts(event))
                case EventKind.ANSWERS:
                    self._answered(event)
                case EventKind.CHECKPOINT:
                    self.notes.tags({"ftcore.checkpoint": event.values.get("path", "")})
                case EventKind.NOTICE:
                    sign, text = noticed(event)
                    self.notes.tags({f"notice/{sign}": f"step {event.step}: {text}"})
                case EventKind.ARTIFACT:
                    self._exported(event)

    def close(self, state: RunState, reason: str) -> None:
        """The end state first: a large model may take longer than anybody waits."""
        with mlflow_errors(self.place):
            self.notes.tags({"ftcore.reason": reason} if reason or self.notes.tag("ftcore.reason") else {})
            run_id = self.remembered.run_id
            self.client.set_terminated(run_id, status=STATES.get(state, "FAILED"), end_time=_ended(self.run.folder))
            for name in DOCUMENTS:
                if (path := self.run.folder / name).is_file():
                    self.files.text(name, without_secrets(path.read_text("utf-8", "replace")))
            if state is RunState.FINISHED and self.config.log_model != "none":
                self.remembered = send_model(self.client, self.config, self.run, self.remembered, self._last)

    def _fresh(self, point: Point) -> Iterator[Any]:
        from mlflow.entities import Metric

        figures = metrics_of(point)
        if not figures or (self._history is not None and self._history.has(point.step, figures)):
            return
        # By its mark a point is known later, so that goes last: what comes before it is there then.
        mark = mark_of(figures)
        for name in sorted(figures, key=lambda name: name == mark):
            yield Metric(name, figures[name], round(point.time * 1000), point.step)

    def _started(self, event: Event) -> None:
        from_step = event.values.get("from_step") or 0
        self.client.update_run(self.remembered.run_id, status="RUNNING")
        if from_step:
            self.notes.tags({"ftcore.resumed_from": from_step})
        if from_step < self._last:  # steps that were sent come again
            self._history = History(self.client, self.remembered.run_id)

    def _answered(self, event: Event) -> None:
        from mlflow.entities import Metric

        known = self.notes.metrics
        figures = {clean(name): value for name, value in judged(event).items()}
        fresh = {name: value for name, value in figures.items() if known.get(name) != value}
        metrics = [Metric(name, value, round(event.time * 1000), event.step) for name, value in fresh.items()]
        if metrics:
            self.client.log_batch(self.remembered.run_id, metrics=metrics, synchronous=True)
            known.update(fresh)
        label = f"step-{event.step:06d}-{clean(str(event.values.get('when', '')))}"
        self._tables(event, label)

    def _tables(self, event: Event, label: str) -> None:
        rows = answers(event, self.run.folder)
        for path in dict.fromkeys(image for row in rows for image in row.images):
            self.files.file(path, path.parent.relative_to(self.run.folder.resolve()).as_posix())
        if rows:
            self._table(f"answers/{label}.json", answers_table(rows, self.run.folder))
        scores = event.values.get("scores")
        counted = counts(scores) if isinstance(scores, dict) else {}
        if counted:
            self._table(f"counts/{label}.json", counts_table(counted))
            self.files.text(f"counts/{label}.svg", counts_picture(counted, f"classes at step {event.step}"))

    def _table(self, name: str, table: dict[str, Any]) -> None:
        self.files.json(name, table)
        named = json.loads(self.notes.tag(TABLES_TAG) or "[]")
        entry = {"path": name, "type": "table"}
        if entry not in named:
            self.notes.tags({TABLES_TAG: json.dumps([*named, entry][-TABLES:])})

    def _exported(self, event: Event) -> None:
        self.notes.tags(artifact_facts(event, self.run.folder))
        name = Path(str(event.values.get("path", ""))).name
        self.files.json(clean(f"exports/{event.values.get('kind', 'unknown')}-{name}.json"), event.values)


def _ended(folder: Path) -> int:
    """When the run wrote its last line, in milliseconds: it may be sent long after."""
    journal = (folder / name for name in ("metrics.jsonl", "events.jsonl"))
    times = [path.stat().st_mtime for path in journal if path.is_file()]
    return round(max(times, default=time.time()) * 1000)
