"""Which checkpoint is the best, by what the run's evaluations have measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from ftcore.errors import Problem, RunError
from ftcore.journal.metrics import figure_by_step
from ftcore.plugins import Plugins
from ftcore.sensible import LOSSES
from ftcore.structure import nearest
from ftcore.values import Profile


@attrs.frozen(kw_only=True)
class Best:
    """The judge among checkpoints. `metrics` is the run's `metrics.jsonl`, so that a resumed run knows as much.

    What was measured up to the step that `otherwise` answers was on other rows, and cannot be compared.
    """

    metrics: Path
    metric: str
    otherwise: Callable[[], int] = lambda: 0

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Those of the steps that were evaluated, the best first.

        Of two that are alike, as scores of a few rows often are, the one with less loss; then the earlier one.
        """
        values = self.values()
        losses = values if self.metric == "eval_loss" else figure_by_step(self.metrics, "eval_loss")
        sign = 1 if self.metric in LOSSES else -1
        known = (step for step in steps if step in values and step > self.otherwise())
        return sorted(known, key=lambda step: (sign * values[step], losses.get(step, math.inf), step))

    def values(self) -> Mapping[int, float]:
        """The metric at each step that was evaluated, where it is a number."""
        return figure_by_step(self.metrics, self.metric)

    def told(self, step: int) -> dict[str, str | int | float]:
        """A step that was evaluated, in the form of the manifest."""
        return {"metric": self.metric, "step": step, "value": self.values()[step]}


def score_problems(profile: Profile, plugins: Plugins) -> Iterator[Problem]:
    """What can never be measured since no plugin scores answers."""
    metric = profile.train.best_metric
    if metric not in LOSSES and not plugins.implementers("score"):
        text = f"no plugin scores answers, so there is no {metric}; set it to eval_loss"
        yield Problem(key="train.best_metric", message=text)


def require_measured(metric: str, found: Mapping[str, float]) -> None:
    """Raise `RunError` when an evaluation did not measure what the best checkpoint is chosen by."""
    if metric not in found:
        raise RunError(f"train.best_metric: an evaluation does not measure {metric!r}{nearest(metric, found)}")
