"""Frames of a game in a 2x2 grid, a text, and the action that follows: for Gemma 3 models that read images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftcore.api import Format, Prediction, Problem, Rows, Run, hookimpl
from ftcore_plugins.gemma_grid.checks import problems
from ftcore_plugins.gemma_grid.options import Options
from ftcore_plugins.gemma_grid.scores import scores

__all__ = ["GemmaGrid", "Options"]


class GemmaGrid:
    """Trains the action that follows four frames, and scores answers by whether they name it."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """Columns, prompt and layout must make sense, and Pillow be there."""
        return problems(self.config, run)

    @hookimpl
    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> Format:
        """Say how a row becomes tokens. Raises `RunError` for a model that is no Gemma 3 with images."""
        from ftcore_plugins.gemma_grid.format import make_format

        return make_format(self.config, run, rows, processor)

    @hookimpl
    def score(self, predictions: Sequence[Prediction]) -> Mapping[str, float] | None:
        """Shares of valid JSON and of right actions, beside that of the commonest action, and counts by action."""
        return scores(predictions, self.config.action_key) if predictions else None
