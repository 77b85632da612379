"""What the engine does after every step, whichever trainer takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.display import Display
from ftcore.journal.writing import Journal
from ftcore.plugins import Plugins
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
    stop_reason: str = ""

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        number = step.number
        self.journal.stepped(number)
        if number >= step.total or number % self.run.profile.train.log_steps == 0:
            self.journal.point(number, {**step.metrics, "epoch": step.epoch})
        self.display.step(step)
        stop = self._heard(self.plugins.on_step(self.run, step))
        return _decision(self.run, step, stop=stop or self.signals.requested is not None)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """See `ftcore.values.Control`."""
        if not metrics:  # every held-out row was dropped
            return Decision()
        self.journal.point(step, metrics)
        self.display.say(f"step {step}: held-out loss {metrics['eval_loss']:.4f}")
        stop = self._heard(self.plugins.on_evaluation(self.run, step, metrics))
        return Decision(checkpoint=stop, stop=stop)

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """See `ftcore.values.Control`."""
        with self.store.commit(step) as staging:
            yield staging
        self.journal.event(EventKind.CHECKPOINT, path=str(self.store.at(step).folder.relative_to(self.run.folder)))

    def _heard(self, told: Iterable[StopRequest | Notice]) -> bool:
        """Pass on what observers tell. Whether one of them asks for a stop; the first one's reason counts."""
        stop = False
        for one in told:
            if isinstance(one, StopRequest):
                self.stop_reason = self.stop_reason or one.reason
                stop = True
            else:
                self.journal.event(EventKind.NOTICE, **attrs.asdict(one))
                self.display.say(
                    f"warning: step {self.journal.step}: {one.text}{f'; {one.advice}' if one.advice else ''}"
                )
        return stop


@attrs.frozen(kw_only=True)
class FollowingControl:
    """The same on a process that is not the main one: it decides as the main one does, and writes and tells nothing."""

    run: Run
    store: CheckpointStore
    signals: StopSignals

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        return _decision(self.run, step, stop=self.signals.requested is not None)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:  # noqa: ARG002
        """See `ftcore.values.Control`."""
        return Decision()

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """See `ftcore.values.Control`: the main process makes the folder, and commits it."""
        return nullcontext(self.store.staging(step))


def _decision(run: Run, step: Step, *, stop: bool) -> Decision:
    train, number = run.profile.train, step.number
    return Decision(
        evaluate=train.eval_steps > 0 and number % train.eval_steps == 0,
        checkpoint=stop or number >= step.total or (train.save_steps > 0 and number % train.save_steps == 0),
        stop=stop,
    )
