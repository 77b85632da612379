"""Writes the metrics of every step to TensorBoard's event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Outcome, Problem, Run, Step, hookimpl, option
from ftcore_plugins.common.requirements import missing


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.tensorboard]`."""

    folder: Path | None = option(None, help="folder of the event files; tensorboard/ in the run's folder if unset")


class TensorBoard:
    """Scalars as `train/...` and `eval/...`, settings as text. View: tensorboard --logdir RUN/tensorboard."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self._writer: Any = None
        self._folder = Path()
        self._purged = True

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The package must be there: a tracker that was asked for is never left out in silence."""
        return missing("tensorboard", "tensorboard", "tensorboard") + missing("tensorboard", "train", "torch")

    @hookimpl
    def run_started(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Note the settings; a run that goes on shows none of the steps that it takes again."""
        base = self.config.folder
        self._folder = run.folder / "tensorboard" if base is None else base / run.folder.name
        self._purged = not run.resumed
        if not run.resumed:
            text = json.dumps(settings, indent=2, default=str).replace("\n", "\n    ")
            self._open(None).add_text("settings", f"    {text}", 0)

    @hookimpl
    def on_step(self, step: Step) -> None:
        """One scalar for each metric."""
        if not self._purged:  # the step that the run goes on from is known only now
            self._open(step.number)
            self._purged = True
        for name, value in step.metrics.items():
            self._open(None).add_scalar(f"train/{name}", value, step.number)

    @hookimpl
    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The held-out loss while training."""
        for name, value in metrics.items():
            self._open(None).add_scalar(f"eval/{name}", value, step)

    @hookimpl
    def run_ended(self, outcome: Outcome) -> None:
        """The held-out loss and scores before and after training, then close the files."""
        writer = self._open(None)
        for when, number, loss, scores in (
            ("before", 0, outcome.loss_before, outcome.scores_before),
            ("after", outcome.step, outcome.loss_after, outcome.scores_after),
        ):
            figures = {**scores, **({} if loss is None else {"loss": loss})}
            for name, value in figures.items():
                writer.add_scalar(f"eval/{name}_{when}", value, number)
        writer.add_text("outcome", f"{outcome.state}: {outcome.reason}" if outcome.reason else outcome.state, 0)
        writer.close()
        self._writer = None

    def _open(self, purge_step: int | None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(log_dir=str(self._folder), purge_step=purge_step)
        return self._writer
