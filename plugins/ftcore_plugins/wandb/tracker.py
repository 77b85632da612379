"""A run of Weights & Biases, opened again by each process that sends to it. Imports wandb.

Rows of its history are numbered by us (`_step`), one by one over all processes, and have the optimizer step as a
figure of their own, `step`, that its charts are drawn over. So nothing is refused for coming late, and what is there
already is known from the numbers: the server's when it is online, else those in wandb's files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcore.api import Event, EventKind, Point, Run, RunError, RunState, read_events, read_points
from ftcore_plugins.common.tracking import (
    artifact_facts,
    counted,
    flat,
    grouped,
    judged,
    machine,
    model_facts,
    noticed,
)
from ftcore_plugins.wandb.opening import board_of, identity_of
from ftcore_plugins.wandb.recorded import Log, Row, logs_of
from ftcore_plugins.wandb.showing import histograms, log_artifact, pictures, samples

if TYPE_CHECKING:
    from ftcore_plugins.wandb import Options

SAMPLES, EVAL, TRAIN = "samples/", "eval/", "train"
PATIENCE = 20.0
"""Seconds that wandb's own process may take to write down what it was given."""


def open_tracker(config: Options, run: Run, settings: Mapping[str, Any], sent: int) -> WandBTracker:
    """Open the run, and send again what an earlier process was given and could not pass on."""
    folder = run.folder / "wandb"
    identity = identity_of(folder)
    rows = [row for log in logs_of(folder, identity) for row in log.rows()]
    board = board_of(config, run, identity, {**flat(settings), **machine(run.folder)})
    logging.getLogger("ftcore.plugins.wandb").info(_where(config, board))
    start = board.starting_step if config.online else 1 + max((row["_step"] for row in rows), default=-1)
    tracker = WandBTracker(config, run, board, start)
    if start and not rows:  # its files have been removed: the follower knows how far it is, or the server
        tracker.knows(max(sent, int(board.summary.get("step") or 0)))
    else:
        tracker.catch_up([row for row in rows if row["_step"] < start], sent)
    return tracker


class WandBTracker:
    """See `ftcore.api.Tracker`. A step that is taken again after a resume is not sent again: nothing is taken back."""

    def __init__(self, config: Options, run: Run, board: Any, start: int) -> None:
        self._config, self._run, self._board = config, run, board
        self._log = Log.of(board)
        self._first = self._next = start  # rows of this process lie between
        self._last: dict[str, int] = {}
        self._told: set[tuple[EventKind, int, float]] = set()
        self._until = 0.0  # all that happened before is there
        self._late = False

    def knows(self, sent: int) -> None:
        """Everything up to the step `sent` is there."""
        self._last = dict.fromkeys((TRAIN, EVAL, *(f"{SAMPLES}{when}" for when in ("before", "during", "after"))), sent)

    def catch_up(self, known: Iterable[Row], sent: int) -> None:
        """Send what the journal has up to the step `sent`, and is not among the `known` rows."""
        for row in known:
            self._last[_kind(row)] = max(self._last.get(_kind(row), -1), int(row.get("step", -1)))
            self._until = max(self._until, row.get("_timestamp", 0.0))
        for event in read_events(self._run.folder / "events.jsonl"):
            if event.step <= sent and event.kind not in (EventKind.NOTICE, EventKind.ENDED):
                self.tell(event)
        self.send([point for point in read_points(self._run.folder / "metrics.jsonl") if point.step <= sent])

    def send(self, points: Sequence[Point]) -> None:
        """A row for each point. Returns when they are written down, from where `wandb sync` could send them too."""
        for point in points:
            self._add(point.step, point.time, grouped(point.metrics))
        self._settle()

    def tell(self, event: Event) -> None:
        """Facts become configuration, answers a table, artifacts and their proofs the summary, notices alerts."""
        key = (event.kind, event.step, event.time)
        if key not in self._told:
            self._tell(event)
            self._told.add(key)

    def close(self, state: RunState, reason: str) -> None:
        """Say how the run has ended, and wait until all is sent. Raises `RunError` when that takes too long."""
        late = f"plugin.wandb: not all was sent within {self._config.end_timeout:g} seconds"
        if self._late:  # wandb takes a run as finished then; only another process can send the rest
            raise RunError(late)
        self._board.summary.update({"state": str(state), "reason": reason})
        try:
            self._board.finish(exit_code=1 if state == RunState.FAILED else 0)
        except TimeoutError as error:
            self._late = True
            raise RunError(late) from error

    def _tell(self, event: Event) -> None:
        match event.kind:
            case EventKind.MODEL:
                self._configure(model_facts(event))
            case EventKind.DATA:
                self._configure(flat({"data": event.values}))
            case EventKind.ANSWERS:
                self._show_answers(event)
            case EventKind.ARTIFACT:
                self._show_artifact(event)
            case EventKind.NOTICE if event.time >= self._until:  # else it would be mailed once more
                sign, text = noticed(event)
                self._board.alert(title=sign, text=text, level="WARN")

    def _show_answers(self, event: Event) -> None:
        when, folder = event.values.get("when"), self._run.folder
        grid = pictures(event, folder)
        shown, figures = counted(event), judged(event)
        row = {f"{SAMPLES}{when}": samples(event, folder), **({f"images/{when}": grid} if grid else {}), **figures}
        self._add(event.step, event.time, {**row, **histograms(shown)})
        self._board.summary.update(figures)
        if shown:  # what the bins of the histograms stand for
            self._configure({"actions": list(next(iter(shown.values())))})
        self._settle()

    def _show_artifact(self, event: Event) -> None:
        facts = artifact_facts(event, self._run.folder)
        self._board.summary.update(facts)
        if self._config.artifacts:
            log_artifact(self._board, event, facts)

    def _add(self, step: int, time: float, values: Mapping[str, Any]) -> None:
        """One row, unless it or one of its kind from a later step is there."""
        kind = _kind(values)
        if step <= self._last.get(kind, -1):
            return
        self._board.log({"step": step, "_timestamp": time, **values}, step=self._next, commit=True)
        self._last[kind] = step
        self._next += 1

    def _settle(self) -> None:
        if self._next > self._first:
            self._log.wait_for(self._next - 1, PATIENCE)

    def _configure(self, facts: Mapping[str, Any]) -> None:
        self._board.config.update(dict(facts), allow_val_change=True)


def _where(config: Options, board: Any) -> str:
    """Where the user finds it."""
    place = Path(board.settings.sync_dir).parent
    return f"the run is at {board.url}" if config.online else f"wandb sync {place}/offline-run-* sends what is there"


def _kind(row: Mapping[str, Any]) -> str:
    """Which of the rows of one step it is."""
    # A table's name is followed by the names of its parts, once it is written down.
    table = next((name.partition(".")[0] for name in row if name.startswith(SAMPLES)), None)
    return table or (EVAL if any(name.startswith(EVAL) for name in row) else TRAIN)
