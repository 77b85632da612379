"""What the engine does after every step, whichever trainer takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.display import Display
from ftcore.evaluation.best import require_measured
from ftcore.evaluation.judge import Judge, figures, kept, told
from ftcore.hardware.gauges import Gauges
from ftcore.journal.writing import Journal
from ftcore.plugins import Plugins
from ftcore.requests import Requests
from ftcore.signals import StopSignals
from ftcore.values import Decision, EventKind, Notice, Run, Step, StopRequest


@attrs.define(kw_only=True)
class RunControl:
    """Logs, shows, asks the observers, and decides on evaluation, checkpoint and stop."""

    plugins: Plugins
    run: Run
    store: CheckpointStore
    journal: Journal
    display: Display
    signals: StopSignals
    judge: Judge
    gauges: Gauges = attrs.field(factory=Gauges)
    tokens_seen: float = 0.0
    requests: Requests = attrs.field(default=attrs.Factory(lambda self: Requests(self.run.folder), takes_self=True))
    stop_reason: str = ""
    _unwritten: Mapping[str, float] = attrs.field(factory=dict, init=False)

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        step = self._measured(step)
        number = step.number
        self.journal.stepped(number)
        gauges = {name: value for name, value in self._unwritten.items() if name.startswith("system/")}
        self._unwritten = {**gauges, **step.metrics, "epoch": step.epoch}
        if number >= step.total or number % self.run.profile.train.log_steps == 0:
            self._write_step(number)
        self.display.step(step)
        stop = self._heard(self.plugins.on_step(self.run, step))
        decision = _decision(self.run, step, asked=stop, signalled=self.signals.requested is not None)
        asked = self.requests.wants_checkpoint()
        return attrs.evolve(decision, checkpoint=True) if asked else decision

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """See `ftcore.values.Control`."""
        if not metrics:  # every held-out row was dropped
            return Decision()
        train = self.run.profile.train
        found = self.judge.answered(train.eval_samples, metrics.get("eval_loss"))
        measured = figures(metrics, found.scores)
        require_measured(train.best_metric, kept(measured))
        self.journal.point(step, kept(measured))
        self.journal.event(EventKind.ANSWERS, when="during", **found.as_json())
        self.display.say(f"step {step}: {told(kept(measured))}")
        stop = self._heard(self.plugins.on_evaluation(self.run, step, measured))
        return Decision(checkpoint=stop or train.load_best, stop=stop)

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """See `ftcore.values.Control`."""
        self._write_step(step)  # where the run may go on from, its sums must stand
        with self.store.commit(step) as staging:
            yield staging
        self.journal.event(EventKind.CHECKPOINT, path=str(self.store.at(step).folder.relative_to(self.run.folder)))

    def _measured(self, step: Step) -> Step:
        """With what the trainer does not know."""
        metrics = {**step.metrics, **self.gauges.sample()}
        if "tokens" in metrics:
            self.tokens_seen += metrics["tokens"]
            metrics["tokens_seen"] = self.tokens_seen
        return attrs.evolve(step, metrics=metrics)

    def _write_step(self, number: int) -> None:
        if self._unwritten:
            self.journal.point(number, self._unwritten)
            self._unwritten = {}

    def _heard(self, told: Iterable[StopRequest | Notice]) -> bool:
        """Pass on what observers tell. Whether one of them asks for a stop; the first one's reason counts."""
        stop = False
        for one in told:
            if isinstance(one, StopRequest):
                self.stop_reason = self.stop_reason or one.reason
                stop = True
            else:
                self.journal.event(EventKind.NOTICE, **attrs.asdict(one))
                self.display.say(one.told(self.journal.step))
        return stop


@attrs.frozen(kw_only=True)
class FollowingControl:
    """The same on a process that is not the main one: it decides as the main one does, and writes and tells nothing."""

    run: Run
    store: CheckpointStore
    signals: StopSignals
    judge: Judge

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        return _decision(self.run, step, asked=False, signalled=self.signals.requested is not None)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:  # noqa: ARG002
        """See `ftcore.values.Control`: it answers its share of the rows, which the main process scores."""
        if metrics:
            self.judge.answered(self.run.profile.train.eval_samples, metrics.get("eval_loss"))
        return Decision()

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """See `ftcore.values.Control`: the main process makes the folder, and commits it."""
        return nullcontext(self.store.staging(step))


def _decision(run: Run, step: Step, *, asked: bool, signalled: bool) -> Decision:
    """A plugin has `asked` for a stop; or the process was told to end, which is not to take long."""
    train, number, stop = run.profile.train, step.number, asked or signalled
    last = asked or number >= step.total
    return Decision(
        # The last step's weights are among those to choose from.
        evaluate=train.eval_steps > 0 and (number % train.eval_steps == 0 or (train.load_best and last)),
        checkpoint=stop or number >= step.total or (train.save_steps > 0 and number % train.save_steps == 0),
        stop=stop,
    )
