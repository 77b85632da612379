"""The stage in the middle of a run: from its last checkpoint, or the start, to the last step."""

from __future__ import annotations

import attrs

from ftcore.checkpoints import Checkpoint, CheckpointStore
from ftcore.control import FollowingControl, RunControl
from ftcore.display import Display
from ftcore.errors import ExitCode, Interrupted
from ftcore.evaluation.judge import Judge
from ftcore.hardware.gauges import gauges_of
from ftcore.journal.metrics import last_figure
from ftcore.journal.writing import METRICS
from ftcore.plugins import Plugins
from ftcore.processes.ranks import Ranks
from ftcore.record import RunRecord
from ftcore.resuming import last_checkpoint
from ftcore.signals import StopSignals
from ftcore.tracking.beside import Trackers
from ftcore.values import Run

ANOTHER = "another process was told to stop"


@attrs.frozen(kw_only=True)
class Training:
    """Has a trainer take the steps of `run` that are left."""

    plugins: Plugins
    run: Run
    record: RunRecord
    store: CheckpointStore
    ranks: Ranks
    trackers: Trackers
    display: Display
    signals: StopSignals

    def work(self, asked: Judge) -> int:
        """Train with the trainer of `asked`, which judges while it does; the last step.

        Raises `Interrupted` when this process, or another one of the run, was told to stop before.
        """
        found = self.ranks.tell(self._last_step)
        checkpoint = self.store.at(found) if found else None
        main = self.run.world.is_main
        step, told = self._steps(asked, checkpoint) if main else self._followed_steps(asked, checkpoint)
        if told and step < asked.trainer.total_steps:
            self.display.say(f"stopped at step {step}: {told}")
            self.record.update(attrs.evolve(self.record.manifest, stopped_at=step, stop_reason=told))
        done = bool(told) or step >= asked.trainer.total_steps or self.run.world.size == 1
        stopped = self.ranks.tell(lambda: self._stop(done=done))
        if stopped is not None:
            raise Interrupted(*stopped)
        return step

    def _steps(self, asked: Judge, checkpoint: Checkpoint | None) -> tuple[int, str]:
        """The last step, and why an observer ended training there, if one did."""
        done = checkpoint.step if checkpoint else 0
        self.store.clean()
        self.store.drop_after(done)
        journal = self.record.journal
        assert journal is not None  # noqa: S101
        total = asked.trainer.total_steps
        self.record.update(attrs.evolve(self.record.manifest, total_steps=total))
        journal.begin(done, total)
        self.record.going_on(done)
        self.trackers.start()
        control = RunControl(
            plugins=self.plugins,
            run=self.run,
            store=self.store,
            journal=journal,
            display=self.display,
            signals=self.signals,
            judge=asked,
            gauges=gauges_of(self.run),
            tokens_seen=last_figure(self.run.folder / METRICS, "tokens_seen"),
        )
        try:
            with self.signals.held():
                step = asked.trainer.train(control, checkpoint.folder if checkpoint else None)
        finally:
            self.display.close()
        return step, control.stop_reason

    def _followed_steps(self, asked: Judge, checkpoint: Checkpoint | None) -> tuple[int, str]:
        control = FollowingControl(run=self.run, store=self.store, signals=self.signals, judge=asked)
        with self.signals.held():
            return asked.trainer.train(control, checkpoint.folder if checkpoint else None), ""

    def _stop(self, *, done: bool) -> tuple[str, ExitCode] | None:
        """Why training has stopped before its end, if it has: this process was told to stop, or another one was."""
        if self.signals.requested is not None:
            return self.signals.requested.reason, self.signals.requested.exit_code
        return None if done else (ANOTHER, ExitCode.RESUMABLE)

    def _last_step(self) -> int:
        """The step to go on from, 0 for the start."""
        checkpoint = last_checkpoint(self.run, self.record.manifest, self.store, self.display.say)
        return checkpoint.step if checkpoint else 0
