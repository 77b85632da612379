"""Writes a run to TensorBoard's event files, in its folder. View them: tensorboard --logdir RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Problem, Run, Tracker, hookimpl, option
from ftcore_plugins.common.requirements import missing


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.tensorboard]`."""

    folder: Path | None = option(None, help="folder of the event files; tensorboard/ in the run's folder if unset")


class TensorBoard:
    """Writes curves, histograms of actions, answers with images, settings and proofs to TensorBoard's event files."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The package must be there: a tracker that was asked for is never left out in silence."""
        return missing("tensorboard", "tensorboard", "tensorboard")

    @hookimpl
    def track(self, run: Run, settings: Mapping[str, Any], sent: int) -> Tracker:
        """Begin another file beside those of earlier processes."""
        from ftcore_plugins.tensorboard.tracker import open_tracker

        folder = run.folder / "tensorboard" if self.config.folder is None else self.config.folder / run.folder.name
        return open_tracker(folder, run, settings, sent)
