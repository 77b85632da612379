"""What the engine does after every step, whichever trainer takes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.display import Display
from ftcore.metrics import MetricsLog
from ftcore.plugins import Plugins
from ftcore.signals import StopSignals
from ftcore.values import Decision, Run, Step


@attrs.define(kw_only=True)
class RunControl:
    """Logs, shows, asks the observers, and decides on evaluation, checkpoint and stop."""

    plugins: Plugins
    run: Run
    store: CheckpointStore
    metrics: MetricsLog
    display: Display
    signals: StopSignals
    stop_reason: str = ""

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        number = step.number
        if number >= step.total or number % self.run.profile.train.log_steps == 0:
            self.metrics.write(number, {**step.metrics, "epoch": step.epoch})
        self.display.step(step)
        request = self.plugins.on_step(self.run, step)
        if request is not None:
            self.stop_reason = request.reason
        return _decision(self.run, step, stop=request is not None or self.signals.requested is not None)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `ftcore.values.Control`."""
        if not metrics:  # every held-out row was dropped
            return
        self.metrics.write(step, metrics)
        self.display.say(f"step {step}: held-out loss {metrics['eval_loss']:.4f}")
        self.plugins.on_evaluation(self.run, step, metrics)

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """See `ftcore.values.Control`."""
        return self.store.commit(step)


@attrs.frozen(kw_only=True)
class FollowingControl:
    """The same on a process that is not the main one: it decides as the main one does, and writes and tells nothing."""

    run: Run
    store: CheckpointStore
    signals: StopSignals

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.values.Control`."""
        return _decision(self.run, step, stop=self.signals.requested is not None)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `ftcore.values.Control`."""

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
