"""Signs in the norm of the gradient, before clipping."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice

from ftcore.api import Profile, Step
from ftcore_plugins.health.advice import calmer, higher_rate
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Quiet, Sign
from ftcore_plugins.health.windows import median

RECENT, OFTEN = 10, 3
"""Of so many steps, so many must be over the limit: single jumps are what clipping is for."""

ENORMOUS = 10
"""How often over the limit one step alone is enough."""


class Exploding(Quiet):
    """Norms that are far over those of the steps before, and over the norm that they are clipped to."""

    sign = Sign.GRADIENT_EXPLODING

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile, self._options = profile, options
        self._floor = max(1.0, profile.train.max_grad_norm)  # what is not clipped does no harm
        self._norms: deque[float] = deque(maxlen=options.window + RECENT)
        self._limit = math.inf

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        norm = step.metrics.get("grad_norm")
        if norm is None or not math.isfinite(norm):
            return None
        self._norms.append(norm)
        before = len(self._norms) - RECENT
        usual = median([*islice(self._norms, before)]) if before >= RECENT else math.inf
        limit = max(self._floor, self._options.gradient_factor * usual)
        limit = min(limit, self._options.gradient_norm or math.inf)
        if norm <= limit:
            return None
        over = sum(each > limit for each in islice(self._norms, max(0, before), None))
        if over < OFTEN and norm <= ENORMOUS * limit:
            return None
        compared = f", {norm / usual:.0f} times its median" if 0 < usual < math.inf else f", over {limit:g}"
        return Finding(f"the gradient norm is {norm:.3g}{compared}", calmer(self._profile))


class Vanishing(Quiet):
    """Gradients that are zero, or next to nothing beside those of the beginning, though the loss is still there."""

    sign = Sign.GRADIENT_VANISHING
    ZEROS, EARLY, SHARE, LEFT = 3, 20, 1e-3, 0.5

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._early: list[tuple[float, float]] = []
        self._first = (0.0, 0.0)
        self._recent: deque[tuple[float, float]] = deque(maxlen=self.EARLY)
        self._zeros = 0

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        norm, loss = step.metrics.get("grad_norm"), step.metrics.get("loss")
        if norm is None or loss is None or not math.isfinite(norm):
            return None
        self._zeros = self._zeros + 1 if norm == 0 and loss > 0 else 0
        if self._zeros >= self.ZEROS:
            text = f"the gradient was exactly 0 for {self._zeros} steps, so nothing is learned"
            return Finding(text, "look with ftcore inspect which weights are trained, and leave frozen parts out")
        if len(self._early) < self.EARLY:
            self._early.append((norm, loss))
            self._first = _medians(self._early)
            return None
        self._recent.append((norm, loss))
        return self._compared() if norm < self.SHARE * self._first[0] else None

    def _compared(self) -> Finding | None:
        (norm, loss), (first, start) = _medians(self._recent), self._first
        if len(self._recent) < self.EARLY or norm >= self.SHARE * first or loss <= self.LEFT * start:
            return None
        text = f"the gradient norm has fallen from {first:.2g} to {norm:.2g}, though the loss is still {loss:.3g}"
        return Finding(text, f"{higher_rate(self._profile)}, or train.precision to bf16 or fp32")


class Overflow(Quiet):
    """Steps that fp16's scaler leaves out, since the gradient is infinite. It tries so at times, but not often."""

    sign = Sign.GRADIENT_OVERFLOW
    SHARE = 0.2

    def __init__(self, options: Options) -> None:
        self._broken: deque[bool] = deque(maxlen=options.window)

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        norm = step.metrics.get("grad_norm")
        if norm is None:
            return None
        self._broken.append(not math.isfinite(norm))
        if not self._broken[-1] or len(self._broken) < (self._broken.maxlen or 0):
            return None
        share = sum(self._broken) / len(self._broken)
        if share < self.SHARE:
            return None
        text = f"{share:.0%} of the last {len(self._broken)} steps were left out, since their gradient was infinite"
        return Finding(text, "set train.precision to bf16 or fp32, whose numbers reach further than fp16's")


class RateZero(Quiet):
    """Steps without a learning rate, but for those at the very end of a schedule."""

    sign = Sign.LEARNING_RATE_ZERO
    STEPS, END = 20, 0.95

    def __init__(self, profile: Profile) -> None:
        self._train = profile.train
        self._zeros = 0

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        rate = step.metrics.get("learning_rate")
        zero = rate is not None and rate <= 1e-6 * self._train.learning_rate
        self._zeros = self._zeros + 1 if zero else 0
        if self._zeros < self.STEPS or step.number > self.END * step.total:
            return None
        text = f"the learning rate has been 0 for {self._zeros} steps, and {step.total - step.number} are to come"
        schedule = f"train.scheduler = {self._train.scheduler!r} and train.warmup = {self._train.warmup:g}"
        return Finding(text, f"look at {schedule}, and at what plugins give as training_args")


def _medians(pairs: deque[tuple[float, float]] | list[tuple[float, float]]) -> tuple[float, float]:
    return median([norm for norm, _ in pairs]), median([loss for _, loss in pairs])
