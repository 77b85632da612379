"""Whether a run learns anything at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from ftcore.api import Profile, Step
from ftcore_plugins.health.advice import higher_rate
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Sign
from ftcore_plugins.health.windows import mean_and_error


class Stuck:
    """A loss that has not left where it began, as sure as its noise allows, or held-out losses that stand still.

    It is looked at when there are a quarter more steps than the last time, as long as nothing was learned.
    """

    sign = Sign.LOSS_STUCK
    SOONEST, MORE = 2, 1.25
    PREFIXES = (5, 10, 20, 40, 80, 160)
    SURE = 2.5
    """Standard errors by which a beginning must be over the end for something to have been learned."""

    LEAST, STILL, AT_MOST = 0.02, 0.01, 0.1
    """Shares of the loss: a fall that counts, one that does not, and one that must not be possible by the run's end."""

    EVALUATIONS, SAME = 3, 0.002

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile = profile
        self._losses: list[float] = []
        self._held_out: list[float] = []
        self._next = float(self.SOONEST * options.window)
        self._learned = False
        self._finding: Finding | None = None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        loss = step.metrics.get("loss")
        if self._learned or loss is None or not math.isfinite(loss):
            return None
        self._losses.append(loss)
        if len(self._losses) >= max(self._next, 2 * self._warmup(step.total)):
            self._next = self.MORE * len(self._losses)
            self._finding = self._looked_at(step)
        return self._finding

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """See `Lookout`."""
        loss = metrics.get("eval_loss", math.nan)
        if not math.isfinite(loss) or len(self._held_out) > self.EVALUATIONS:
            return None
        self._held_out.append(loss)
        still = all(abs(one - other) <= self.SAME * one for one, other in pairwise(self._held_out))
        if len(self._held_out) != self.EVALUATIONS or not still:
            return None
        text = f"the held-out loss stands still at {loss:.4g} as of step {step}: nothing is learned"
        return Finding(text, self._advice())

    def _warmup(self, total: int) -> float:
        warmup = self._profile.train.warmup
        return warmup if warmup >= 1 else warmup * total

    def _looked_at(self, step: Step) -> Finding | None:
        third = len(self._losses) // 3
        now, error = mean_and_error(self._losses[-third:])
        self._learned = any(self._fell(size, now, error) for size in (*self.PREFIXES, third) if size <= third)
        if self._learned:
            self._losses = []
            return None
        first, of_first = mean_and_error(self._losses[:third])
        fall, noise = first - now, math.hypot(error, of_first)
        ahead = step.total / (len(self._losses) - third)  # it may only be slow
        if fall > self.STILL * first or (fall + 3 * noise) * max(1.0, ahead) > self.AT_MOST * first:
            return None
        text = f"the loss has not fallen in {step.number} steps: it began at {first:.3g}, and is {now:.3g}"
        return Finding(text, self._advice())

    def _fell(self, size: int, now: float, error: float) -> bool:
        first, of_first = mean_and_error(self._losses[:size])
        return first - now > max(self.SURE * math.hypot(error, of_first), self.LEAST * first)

    def _advice(self) -> str:
        return f"{higher_rate(self._profile)}, and look with ftcore inspect which weights are trained"
