"""Signs in what the model makes of the held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ftcore.api import Profile, Step
from ftcore_plugins.health.advice import lower_rate
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Quiet, Sign
from ftcore_plugins.health.windows import Window


class Overfitting:
    """A held-out loss over its lowest at two evaluations in a row, while the training loss goes on falling."""

    sign = Sign.OVERFITTING
    TWICE = 2

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile, self._rise = profile, options.overfitting
        self._recent = Window(options.window)
        self._best = (math.inf, math.inf, 0)  # held-out loss, training loss then, step
        self._over = 0

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        loss = step.metrics.get("loss", math.nan)
        if math.isfinite(loss):
            self._recent.add(loss)
        return None

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """See `Lookout`."""
        loss = metrics.get("eval_loss", math.nan)
        if not math.isfinite(loss):
            return None
        if loss < self._best[0]:
            self._best, self._over = (loss, self._recent.mean, step), 0
            return None
        best, train, when = self._best
        self._over = self._over + 1 if loss > (1 + self._rise) * best else 0
        if self._over < self.TWICE or self._recent.mean > train:
            return None
        text = f"the held-out loss rises while the training loss falls: it was {best:.3g} at step {when}, is {loss:.3g}"
        return Finding(text, f"{self._shorter(when)}, take more rows, or {lower_rate(self._profile)}")

    def _shorter(self, when: int) -> str:
        keep = "train.load_best = true ends with the best checkpoint"
        return f"train to about step {when} (train.max_steps), or let [plugin.early_stopping] stop; {keep}"


class Absurd(Quiet):
    """A perplexity that no model has on text that it was made for, and that training has not brought about."""

    sign = Sign.PERPLEXITY
    STEPS = 20
    FALL = 0.02
    """Share that the loss falls by from the older half of these steps to the newer, as that of random weights does."""
    MORE = 1.0
    """Nats over the loss of the first steps from which on it is the training that has spoiled the model."""

    def __init__(self, options: Options) -> None:
        self._limit = math.log(options.perplexity)
        self._recent = Window(self.STEPS)
        self._start = -math.inf

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`. The training loss tells as much, once it falls no more."""
        loss = step.metrics.get("loss", math.nan)
        if math.isfinite(loss):
            self._recent.add(loss)
            self._start = loss if self._start == -math.inf else self._start
        if not self._recent.full or self._recent.mean <= self._limit or self._falls():
            return None
        if self._diverged:
            return None
        return self._finding(self._recent.mean, f"on the last {self.STEPS} steps' rows")

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """See `Lookout`."""
        loss = metrics.get("eval_loss", 0.0)
        if math.isfinite(loss) and (loss <= self._limit or self._diverged or self._started_as_badly(loss)):
            return None
        return self._finding(loss, f"on the held-out rows after step {step}")

    @property
    def _diverged(self) -> bool:
        return bool(self._recent.values) and self._recent.mean > self._start + self.MORE

    def _started_as_badly(self, loss: float) -> bool:
        """Whether the model made nothing of the rows it trains on either, such as random weights, and less now."""
        return self._start > self._limit and loss > self._start + self.MORE

    def _falls(self) -> bool:
        values, half = [*self._recent.values], self.STEPS // 2
        return math.fsum(values[half:]) < (1 - self.FALL) * math.fsum(values[:half])

    def _finding(self, loss: float, where: str) -> Finding:
        perplexity = math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss
        text = f"the perplexity is {perplexity:.3g} {where} (loss {loss:.3g}): the model makes nothing of them"
        return Finding(text, "see with ftcore preview that chat template and tokenizer are the model's own")
