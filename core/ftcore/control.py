"""What the engine does after every step, whichever trainer takes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
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
        train, number = self.run.profile.train, step.number
        last = number >= step.total
        if last or number % train.log_steps == 0:
            self.metrics.write(number, {**step.metrics, "epoch": step.epoch})
        self.display.step(step)
        request = self.plugins.on_step(self.run, step)
        if request is not None:
            self.stop_reason = request.reason
        stop = request is not None or self.signals.requested is not None
        return Decision(
            evaluate=train.eval_steps > 0 and number % train.eval_steps == 0,
            checkpoint=stop or last or (train.save_steps > 0 and number % train.save_steps == 0),
            stop=stop,
        )

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
