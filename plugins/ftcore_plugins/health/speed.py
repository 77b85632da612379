"""Signs in the time that steps take, and what the graphics cards do meanwhile."""

from __future__ import annotations

import math
from collections import deque

from ftcore.api import Profile, Step
from ftcore_plugins.health.advice import more_workers
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Finding, Quiet, Sign, gpus
from ftcore_plugins.health.windows import Window, median

WARM = 10
"""Steps after a start, or a new one, that say nothing: caches, kernels and loaders fill."""


class Lagging(Quiet):
    """Steps that wait for their batches for too large a share of the time."""

    sign = Sign.DATA_LAGGING
    LEAST = 0.005
    """Seconds of waiting in a step under which it does not matter."""

    def __init__(self, profile: Profile, options: Options) -> None:
        self._profile, self._limit = profile, options.data_share
        self._waited, self._took = Window(options.window), Window(options.window)
        self._skipped = 0

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        waited, took = step.metrics.get("data_seconds"), step.metrics.get("seconds")
        if waited is None or took is None or self._skipped < WARM:
            self._skipped += 1
            return None
        self._waited.add(waited)
        self._took.add(took)
        if not self._took.full or self._waited.mean < self.LEAST or self.share < self._limit:
            return None
        text = f"steps wait for their batches for {self.share:.0%} of their {self._took.mean:.2g} seconds"
        return Finding(text, more_workers(self._profile))

    @property
    def share(self) -> float:
        """Of the time of the last steps."""
        return self._waited.mean / self._took.mean if self._took.mean > 0 else 0.0


class Idle(Quiet):
    """Graphics cards that have little to do, as their driver tells."""

    sign = Sign.GPU_IDLE
    SAMPLES = 12
    """Two minutes of them."""

    def __init__(self, profile: Profile, options: Options, lagging: Lagging) -> None:
        self._profile, self._limit, self._lagging = profile, options.gpu_use, lagging
        self._uses: deque[float] = deque(maxlen=self.SAMPLES)
        self._finding: Finding | None = None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        uses = [*gpus(step, "utilization")]
        if not uses:
            return self._finding
        self._uses.append(min(uses))
        use = median(self._uses)
        low = len(self._uses) == self.SAMPLES and use < self._limit
        text = f"a GPU was at work {use:.0f}% of the time over the last {self.SAMPLES} samples"
        self._finding = Finding(text, self._advice()) if low else None
        return self._finding

    def _advice(self) -> str:
        if self._lagging.share > 0.1:  # noqa: PLR2004
            return more_workers(self._profile)
        train = self._profile.train
        micro = train.micro_batch_size or train.batch_size
        return f"raise train.micro_batch_size (it is {micro}), which ftcore tune finds, or train.packing = true"


class Slower(Quiet):
    """Tokens a second of the last minute or so, against the median of all those before."""

    sign = Sign.THROUGHPUT_DROPPED
    STEPS, SECONDS, FEWEST, TWICE = 30, 30.0, 4, 2
    HOT = 80.0
    """Degrees Celsius from which a card may slow itself down."""

    def __init__(self, options: Options) -> None:
        self._limit = options.slowdown
        self._skipped = 0
        self._tokens, self._seconds, self._steps = 0.0, 0.0, 0
        self._speeds: list[float] = []
        self._low = 0
        self._heat: tuple[float, ...] = ()
        self._finding: Finding | None = None

    def step(self, step: Step) -> Finding | None:
        """See `Lookout`."""
        tokens, seconds = step.metrics.get("tokens"), step.metrics.get("seconds")
        if tokens is None or seconds is None or self._skipped < WARM:
            self._skipped += 1
            return None
        self._heat = (*gpus(step, "temperature"),) or self._heat
        self._tokens, self._seconds, self._steps = self._tokens + tokens, self._seconds + seconds, self._steps + 1
        if self._steps >= self.STEPS and self._seconds >= self.SECONDS:
            self._finding = self._compared(self._tokens / self._seconds)
            self._tokens, self._seconds, self._steps = 0.0, 0.0, 0
        return self._finding

    def _compared(self, speed: float) -> Finding | None:
        usual = median(self._speeds)
        slow = len(self._speeds) >= self.FEWEST and speed < self._limit * usual
        self._low = self._low + 1 if slow else 0
        if not slow:  # else a run that stays slow would find that usual
            self._speeds.append(speed)
        if self._low < self.TWICE:
            return None
        return Finding(f"the run trains {speed:.3g} tokens a second, and has trained {usual:.3g}", self._advice())

    def _advice(self) -> str:
        hottest = max(self._heat, default=-math.inf)
        if hottest >= self.HOT:
            return (
                f"a GPU is at {hottest:.0f} degrees Celsius, and may slow itself down: see to its fans and power limit"
            )
        cool = f", since the GPU is cool ({hottest:.0f} degrees Celsius)" if self._heat else ""
        return f"look with ftcore monitor for other processes and a slow disk{cool}"
