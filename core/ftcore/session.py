"""The work of one run, from rows to proved exports, top to bottom."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.data.prepare import clean, prepare
from ftcore.display import Display
from ftcore.early_end import reason_of
from ftcore.errors import Interrupted, RunError
from ftcore.evaluation import judge
from ftcore.evaluation.best import Best, require_measured
from ftcore.files import sync_tree
from ftcore.hardware.usage import set_threads
from ftcore.journal.writing import METRICS
from ftcore.manifest import Manifest, now
from ftcore.planning.room import require_room, sketched
from ftcore.plugins import Plugins
from ftcore.processes.ranks import Ranks
from ftcore.record import RunRecord
from ftcore.report.document import write_report
from ftcore.shipping.delivery import hand_over, what_is_there
from ftcore.shipping.exporting import EXPORTS, Shipment, ship
from ftcore.signals import StopSignals
from ftcore.tracking.beside import FINISH_SECONDS, STOPPED_SECONDS, Trackers
from ftcore.training import Training
from ftcore.values import EventKind, Loaded, Outcome, Run, RunState, Trainer

STAGES = (
    "reading rows",
    "formatting data",
    "loading model",
    "judging before",
    "training",
    "judging after",
    "exporting",
)


class Session:
    """The state of one run while it runs: its manifest, its checkpoints and who is told.

    Several processes work side by side. Only the main one writes and tells; the others follow what it decides.
    """

    def __init__(self, plugins: Plugins, run: Run, manifest: Manifest, display: Display, signals: StopSignals) -> None:
        self._plugins = plugins
        self._run = _until_stopped(run, manifest.stopped_at)
        self._display = display
        self._signals = signals
        self._ranks = Ranks(plugins, run)
        self._main = run.world.is_main
        train = run.profile.train
        self._best = Best(
            metrics=run.folder / METRICS,
            metric=train.best_metric,
            otherwise=lambda: self._record.manifest.measured_otherwise,
        )
        self._store = CheckpointStore(
            folder=run.folder / "checkpoints", keep=train.save_limit, ranked=self._best.ranked
        )
        self._record = RunRecord(run, manifest, display)
        self._trackers = Trackers(run.folder, plugins.implementers("track") if self._main else [], display.say)
        self._training = Training(
            plugins=plugins,
            run=self._run,
            record=self._record,
            store=self._store,
            ranks=self._ranks,
            trackers=self._trackers,
            display=display,
            signals=signals,
        )

    def work(self) -> Outcome:
        """From rows to proved exports."""
        plugins, run = self._plugins, self._run
        set_threads(run.profile.hardware.threads)
        self._ranks.require_shared(run.folder)
        if self._main:
            plugins.run_started(run, copy.deepcopy(self._record.manifest.settings))
        known = sketched(plugins, run)  # what the model cannot have is told before its rows are prepared
        prepared = self._ranks.first_here_first(lambda: prepare(plugins, run, self._stage))
        data = prepared.data
        self._record.data(prepared)
        self._stage("loading model")
        sizes = require_room(run, known, data)
        loaded = plugins.load_model(run, prepared.processor, plugins.quantize(run))
        self._record.model(loaded)
        loaded = plugins.adapt(run, loaded)
        self._record.parameters(loaded)
        trainer = plugins.make_trainer(run, loaded, data, plugins.training_args(run))
        asked = judge.Judge(plugins=plugins, run=run, trainer=trainer, prepared=prepared)
        self._stage("judging before")
        before = self._before(asked)
        self._stage("training")
        step = self._training.work(asked)
        self._stage("judging after")
        saved, loaded = self._save(trainer, loaded, step)
        after = asked.whole()
        self._record.answers("after", after)
        if after.loss is not None and not math.isfinite(after.loss):
            text = f"the held-out loss after training is {after.loss}; lower train.learning_rate"
            raise RunError(f"{text} (docs/health.md#not-a-number)")
        self._stage("exporting")
        if not self._main:
            return Outcome(state=RunState.FINISHED, folder=run.folder, step=step)
        finished = attrs.evolve(judge.outcome(run, before, after, step=step), reason=self._record.manifest.stop_reason)
        shipment = Shipment(plugins=plugins, run=run, saved=saved, exports=run.folder / EXPORTS, sizes=sizes)
        self._begin_to_ship(shipment, finished)
        with self._what_is_there_told(shipment):
            written = ship(shipment, loaded, data, note=self._record.artifact, say=self._display.say)
            hand_over(shipment, written, written, self._display.say)
        return attrs.evolve(finished, artifacts=self._record.manifest.artifacts())

    def failed(self, error: BaseException) -> Outcome:
        """How a run that raised `error` ended."""
        if isinstance(error, RunError) and error.notice is not None:
            self._record.event(EventKind.NOTICE, **attrs.asdict(error.notice))
        known = self._record.manifest.outcome(self._run.folder)
        state = RunState.STOPPED if isinstance(error, Interrupted) else RunState.FAILED
        committed = self._store.all()
        step = committed[-1].step if committed else 0
        return attrs.evolve(known, state=state, reason=reason_of(error, self._run.folder), step=step)

    def ended(self, outcome: Outcome) -> None:
        """Write the end into the folder, then tell the observers."""
        clean(self._run)
        if not self._main:
            return
        try:
            self._record.update(attrs.evolve(self._record.manifest.with_outcome(outcome), ended=now()))
            write_report(self._run.folder, self._record.manifest, self._display.say)
        finally:  # also on a full disk
            self._plugins.run_ended(self._run, outcome)
            try:
                self._record.event(EventKind.ENDED, state=outcome.state, reason=outcome.reason)
                self._record.close()
            finally:
                self._finish_trackers(outcome)

    def _finish_trackers(self, outcome: Outcome) -> None:
        before = self._signals.requested
        seconds = STOPPED_SECONDS if outcome.state is RunState.STOPPED else FINISH_SECONDS
        self._trackers.finish(seconds, hurry=lambda: self._signals.requested is not before)

    def _before(self, asked: judge.Judge) -> judge.Judgement:
        known = judge.remembered(self._record.manifest.outcome(self._run.folder))
        if known is None or not judge.about(known, self._run, asked.prepared) or not self._store.all():
            known = None
        if self._ranks.tell(lambda: known is not None):
            return known or judge.NOTHING
        before = asked.whole()
        self._record.answers("before", before)
        if before.scores and self._run.profile.train.eval_steps:  # or the first evaluation finds out
            require_measured(self._best.metric, judge.kept(judge.figures({"eval_loss": 0.0}, before.scores)))
        self._record.update(self._record.manifest.with_outcome(judge.outcome(self._run, before)))
        return before

    def _save(self, trainer: Trainer, loaded: Loaded, step: int) -> tuple[Path, Loaded]:
        saved = self._run.folder / ("adapter" if loaded.adapter else "model")
        kept = self._ranks.tell(lambda: self._best_step(step))
        if kept != step:
            trainer.load(self._store.at(kept).folder)
        tuned = trainer.save(saved)
        if self._main:
            sync_tree(saved)
        self._record.update(attrs.evolve(self._record.manifest, saved_at=kept, saved_after=step))
        return saved, tuned

    def _best_step(self, last: int) -> int:
        """The step whose weights the run ends with: the best checkpoint's, where the profile asks for them."""
        load = self._run.profile.train.load_best
        checkpoint = self._store.best(self._display.say if load else None)
        best = self._best.told(checkpoint.step) if checkpoint else {}
        self._record.update(attrs.evolve(self._record.manifest, best=best))
        if not load or checkpoint is None or checkpoint.step == last:
            return last
        figure = f"{best['metric']} {best['value']:.4g}"
        self._display.say(f"the run ends with its best weights, of step {checkpoint.step} of {last}: {figure}")
        return checkpoint.step

    def _begin_to_ship(self, shipment: Shipment, finished: Outcome) -> None:
        """What the model has become is known before it is shipped: its card is made from that."""
        others = [artifact for artifact in self._record.manifest.artifacts() if not shipment.holds(artifact)]
        known = attrs.evolve(finished, state=RunState.RUNNING, artifacts=tuple(others))
        self._record.update(self._record.manifest.with_outcome(known))

    @contextmanager
    def _what_is_there_told(self, shipment: Shipment) -> Iterator[None]:
        """A run that fails with its exports has its model all the same."""
        try:
            yield
        except Exception:
            self._display.say(what_is_there(shipment, self._record.manifest.artifacts()))
            raise

    def _stage(self, title: str) -> None:
        number = STAGES.index(title) + 1
        self._display.stage(number, len(STAGES), title)
        self._record.event(EventKind.STAGE, number=number, total=len(STAGES), title=title)


def _until_stopped(run: Run, step: int) -> Run:
    """A run that a plugin stopped early, then was killed while exporting, must not train on when resumed."""
    if not step:
        return run
    train = attrs.evolve(run.profile.train, max_steps=step)
    return attrs.evolve(run, profile=attrs.evolve(run.profile, train=train))
