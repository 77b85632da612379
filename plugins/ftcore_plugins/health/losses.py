"""Signs in the training loss that a step or a few of them show."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from ftcore.api import Profile, Step
from ftcore_plugins.health.advice import calmer, lower_rate
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Quiet, Sign
from ftcore_plugins.health.windows import Window, median

FEW = 10
"""Fewest steps that say something together."""


class Rising(Quiet):
    """The mean of a window against that of the best one before it, in units of their noise."""

    sign = Sign.LOSS_RISING
    SIGMAS = 8.0
    """The best of many windows is low by chance, and the worst one is high: that is worth 4 or 5 already."""

    OF_START, JUMP = 0.1, 1.5
    FIRST, AWAY, MORE = 3, 3.0, 1.0
    """A run whose last few losses are each so many times the highest of its first ones, and so many nats more, has
    risen from its start on: there is no best window that would show it."""

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile, self._rise, self._size = profile, options.loss_rise, options.window
        self._first: list[float] = []
        self._recent: Window | None = None
        self._since = 0
        self._start = math.inf
        self._best = (math.inf, 0.0, 0.0, 0)  # mean, its error, highest loss, and the last step of the best window

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        loss = step.metrics.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        recent = self._recent = self._recent or Window(max(FEW, min(self._size, step.total // 8)))
        recent.add(loss)
        self._first = self._first if len(self._first) == self.FIRST else [*self._first, loss]
        self._since += 1
        if len(recent.values) >= FEW and self._is_away(recent):
            return self._away(recent)
        if not recent.full:
            return None
        finding = self._risen(recent) if self._best[0] < math.inf else None
        if self._since >= len(recent.values):
            self._since = 0
            self._start = recent.mean if self._start == math.inf else self._start
            self._best = min(self._best, (recent.mean, recent.error, max(recent.values), step.number))
        return finding

    def _is_away(self, recent: Window) -> bool:
        limit = self.AWAY * max(self._first) + self.MORE
        return recent.values[-1] > limit and all(recent.values[-back] > limit for back in range(1, FEW + 1))

    def _away(self, recent: Window) -> Finding:
        now = median([*recent.values][-FEW:])
        text = f"the loss rises: it was {max(self._first):.3g} in the first steps, and is {now:.3g} now"
        return Finding(text, lower_rate(self._profile, by=10))

    def _risen(self, recent: Window) -> Finding | None:
        best, error, highest, step = self._best
        now = recent.mean
        if now - best < max(self._rise * best, self.OF_START * self._start):
            return None
        if self._jumped(recent, highest):
            now = median([*recent.values][-FEW:])
        elif now - best < self.SIGMAS * math.hypot(recent.error, error):
            return None
        text = f"the loss rises: it was {best:.3g} up to step {step}, and is {now:.3g} now"
        return Finding(text, calmer(self._profile))

    def _jumped(self, recent: Window, highest: float) -> bool:
        """Whether each of the last few losses is far over every one of the best window."""
        limit = self.JUMP * highest
        return recent.values[-1] > limit and all(recent.values[-back] > limit for back in range(1, FEW + 1))


class Zero(Quiet):
    """Training losses of next to nothing: the rows are known by heart, or the answer stands in the prompt."""

    sign = Sign.LOSS_ZERO
    STEPS = 20

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile, self._limit = profile, options.loss_zero
        self._losses: deque[float] = deque(maxlen=self.STEPS)
        self._held_out: float | None = None

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:  # noqa: ARG002
        """See `Lookout`."""
        self._held_out = metrics.get("eval_loss")
        return None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        self._losses.append(step.metrics.get("loss", math.inf))
        if self._losses[-1] > self._limit or len(self._losses) < self.STEPS:
            return None
        loss = median(self._losses)
        return self._explained(loss, step.epoch) if loss <= self._limit else None

    def _explained(self, loss: float, epoch: float) -> Finding:
        text = f"the training loss is {loss:.2g}"
        known = self._held_out is not None and self._held_out <= 10 * self._limit
        if known or epoch <= 1:
            text = f"{text} within {epoch:.1f} passes over the rows, and the held-out loss is as low" if known else text
            advice = "look with ftcore preview whether the answer stands in the prompt; if the task is as easy, stop"
            return Finding(text if known else f"{text} before every row was seen once", advice)
        other = "" if self._held_out is None else f", and the held-out loss is {self._held_out:.3g}"
        text = f"{text} after {epoch:.1f} passes: the rows are known by heart{other}"
        return Finding(text, f"train for fewer train.epochs, on more rows, or {lower_rate(self._profile)}")


class Spikes(Quiet):
    """Losses that jump up for a step or a few, far out of their noise, and come back."""

    sign = Sign.LOSS_SPIKES
    USUAL, FEWEST, OFTEN, LONGEST = 100, 30, 3, 5
    SIGMAS, TIMES, OF_START = 6.0, 2.0, 0.1
    SIGMA = 1.4826
    """Standard deviation of a normal distribution, in medians of what is off its median."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._losses: deque[float] = deque(maxlen=self.USUAL)
        self._ends: deque[int] = deque(maxlen=self.OFTEN)
        self._start = 0.0
        self._usual = math.inf
        self._long = 0

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        loss = step.metrics.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        if self._is_spike(loss):
            self._long += 1
        elif self._long:
            if self._long <= self.LONGEST:
                self._ends.append(step.number)
            self._long = 0
        self._take(loss)
        if len(self._ends) < self.OFTEN or step.number - self._ends[0] > self.USUAL:
            return None
        text = f"the loss has jumped up {self.OFTEN} times in {step.number - self._ends[0] + 1} steps, and come back"
        return Finding(text, f"look for broken rows with ftcore preview, or {calmer(self._profile)}")

    def _take(self, loss: float) -> None:
        if len(self._losses) < self.FEWEST:
            self._start = max(self._start, loss)
        self._losses.append(loss)
        # Sorting at each step would cost more than all the rest.
        if len(self._losses) >= self.FEWEST and (self._usual == math.inf or len(self._losses) % FEW == 0):
            self._usual = median(self._losses)

    def _is_spike(self, loss: float) -> bool:
        if loss <= self.TIMES * self._usual or loss - self._usual < self.OF_START * self._start:
            return False
        logs = sorted(math.log(max(each, 1e-9)) for each in self._losses)
        middle = median(logs)
        sigma = self.SIGMA * median([abs(each - middle) for each in logs])
        return math.log(loss) > max(middle + self.SIGMAS * sigma, middle + math.log(self.TIMES))
