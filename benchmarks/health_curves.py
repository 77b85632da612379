"""Simulated runs for `health.py`: healthy ones of seven kinds, and the faults that can be put into them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator

import attrs

from ftcore_plugins.health.signs import Sign


@attrs.define
class Curve:
    """One simulated run, a list for each figure; a step's is at its number less one."""

    rng: random.Random
    loss: list[float]
    norm: list[float]
    rate: list[float]
    seconds: list[float]
    waited: list[float]
    tokens: list[float]
    memory: list[float]
    use: list[float]
    held_out: dict[int, float]
    epochs: float = 1.0

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.loss)

    def after(self, share: float) -> range:
        """The steps after that share of the run, as places."""
        return range(int(share * self.steps), self.steps)


def smooth(rng: random.Random, steps: int, kind: str) -> list[float]:
    """The course of a loss without its noise."""
    start, tau = rng.uniform(1.0, 3.0), steps * rng.uniform(0.02, 0.3)
    floor = start * (rng.uniform(0.03, 0.15) if kind == "easy task" else rng.uniform(0.3, 0.8))
    if kind == "slow learner":
        return [
            start * (1 - rng_fall * place / steps) for rng_fall in [rng.uniform(0.1, 0.3)] for place in range(steps)
        ]
    course = [floor + (start - floor) * math.exp(-place / tau) for place in range(steps)]
    if kind == "epochs":  # the loss drops where rows are seen again
        epochs, drop = rng.randint(2, 5), rng.uniform(0.03, 0.2)
        return [loss * (1 - drop) ** (place * epochs // steps) for place, loss in enumerate(course)]
    return course


def noise(rng: random.Random, steps: int, kind: str) -> Iterator[float]:
    """Factors around 1: log-normal, of small batches wide, and in one kind not independent of each other."""
    sigma = {"small batches": rng.uniform(0.35, 0.6), "smooth": rng.uniform(0.01, 0.04)}.get(
        kind, rng.uniform(0.04, 0.3)
    )
    memory, state = (0.7, 0.0) if kind == "correlated" else (0.0, 0.0)
    for _ in range(steps):
        state = memory * state + rng.gauss(0, sigma * math.sqrt(1 - memory**2))
        yield math.exp(state - sigma**2 / 2)


def schedule(steps: int, warmup: float = 0.03) -> list[float]:
    """Warm-up, then a cosine."""
    ramp = max(1, int(warmup * steps))
    return [
        2e-4 * min(1.0, (place + 1) / ramp) * (0.5 + 0.5 * math.cos(math.pi * max(0, place - ramp) / (steps - ramp)))
        for place in range(steps)
    ]


def healthy(rng: random.Random, kind: str) -> Curve:
    """A run in which nothing is wrong."""
    steps = rng.choice([100, 250, 500, 1000, 2000])
    course = smooth(rng, steps, kind)
    loss = [each * factor for each, factor in zip(course, noise(rng, steps, kind), strict=True)]
    scale, spread, ramp = rng.lognormvariate(0, 1), rng.uniform(0.1, 0.6), rng.uniform(1, 30)
    power = rng.uniform(0.3, 0.5)
    norm = [
        scale * (each / course[0]) ** power * min(1.0, (place + 2) / ramp) * rng.lognormvariate(0, spread)
        for place, each in enumerate(course)
    ]
    pace, share, base = rng.uniform(0.5, 3), rng.uniform(0, 0.08), rng.uniform(2, 30)
    seconds = [pace * rng.lognormvariate(0, 0.2) for _ in range(steps)]
    filled = rng.uniform(0.02, 0.08) * steps
    memory = [base * (1 - 0.3 * math.exp(-p / filled)) + rng.gauss(0, 0.01) for p in range(steps)]
    gap, wobble, every = rng.uniform(1.0, 1.2), rng.uniform(0.0, 0.006), steps // 10
    held_out = {step: gap * course[step - 1] * (1 + rng.gauss(0, wobble)) for step in range(every, steps + 1, every)}
    return Curve(
        rng=rng,
        loss=loss,
        norm=norm,
        rate=schedule(steps),
        seconds=seconds,
        waited=[share * each * rng.uniform(0, 2) for each in seconds],
        tokens=[each / pace * rng.lognormvariate(7, 0.5) for each in seconds],
        memory=memory,
        use=[rng.uniform(70, 100) for _ in range(steps)],
        held_out=held_out,
        epochs=rng.uniform(0.5, 4),
    )


HEALTHY = ("cosine decay", "small batches", "smooth", "correlated", "easy task", "slow learner", "epochs")


def long(rng: random.Random) -> Curve:
    """A healthy run that is long enough for a fault to show."""
    while True:
        curve = healthy(rng, rng.choice(["cosine decay", "correlated", "epochs"]))
        if curve.steps >= 500:
            return curve


# Faults, each of them put into a healthy run


def exploding(curve: Curve) -> None:
    """Norms double every few steps."""
    every = curve.rng.uniform(2, 8)
    for count, place in enumerate(curve.after(curve.rng.uniform(0.1, 0.8))):
        curve.norm[place] *= 2 ** min(40, count / every)


def vanishing(curve: Curve) -> None:
    """Gradients of zero, or of next to nothing, and a loss that stays."""
    left = curve.rng.choice([0.0, 1e-5, 1e-4])
    for place in curve.after(curve.rng.uniform(0.1, 0.5)):
        curve.norm[place] *= left
        curve.loss[place] = curve.loss[0] * curve.rng.uniform(0.7, 1.0)


def overflow(curve: Curve) -> None:
    """fp16's scaler leaves many steps out."""
    share = curve.rng.uniform(0.3, 1.0)
    for place in curve.after(curve.rng.uniform(0.1, 0.7)):
        if curve.rng.random() < share:
            curve.norm[place] = math.inf


def rising(curve: Curve) -> None:
    """The loss goes up by half or more, slowly or at once."""
    begin, end = curve.rng.uniform(0.2, 0.6), curve.rng.uniform(0.0, 0.2)
    places, up = curve.after(begin), curve.rng.uniform(0.6, 3.0)
    for count, place in enumerate(places):
        curve.loss[place] *= 1 + up * min(1.0, count / max(1.0, end * len(places)))


def stuck(curve: Curve) -> None:
    """Nothing is learned: noise around where the loss began."""
    start, sigma = curve.rng.uniform(0.8, 3), curve.rng.uniform(0.02, 0.25)
    curve.loss[:] = [start * math.exp(curve.rng.gauss(0, sigma)) for _ in curve.loss]
    curve.held_out = {step: start * (1 + curve.rng.gauss(0, 2e-4)) for step in curve.held_out}


def zero(curve: Curve) -> None:
    """The loss falls to nothing."""
    tau = curve.rng.uniform(5, 40)
    for count, place in enumerate(curve.after(curve.rng.uniform(0.0, 0.6))):
        curve.loss[place] *= math.exp(-count / tau)


def spikes(curve: Curve) -> None:
    """Single steps of many times the loss."""
    sigma = statistics.pstdev(math.log(each) for each in curve.loss[-100:])
    places = [*curve.after(curve.rng.uniform(0.2, 0.5))]
    for place in places[:: curve.rng.randint(8, 30)]:
        curve.loss[place] *= max(4.0, math.exp(9 * sigma))


def overfitting(curve: Curve) -> None:
    """The held-out loss turns round, and the training loss goes on falling."""
    turn, up = curve.rng.uniform(0.2, 0.6) * curve.steps, curve.rng.uniform(0.2, 1.0)
    low = min(loss for step, loss in curve.held_out.items() if step <= turn)
    for step in curve.held_out:
        if step > turn:
            curve.held_out[step] = low * (1 + up * (step - turn) / curve.steps)
    for count, place in enumerate(curve.after(turn / curve.steps)):
        curve.loss[place] *= 1 - 0.4 * min(1.0, 2 * count / curve.steps)


def perplexity(curve: Curve) -> None:
    """A model that knows nothing of the rows."""
    more = curve.rng.uniform(8, 12)
    curve.loss[:] = [more + each for each in curve.loss]
    curve.held_out = {step: more + loss for step, loss in curve.held_out.items()}


def rate_zero(curve: Curve) -> None:
    """A schedule that ends long before the run."""
    for place in curve.after(curve.rng.uniform(0.3, 0.8)):
        curve.rate[place] = 0.0


def lagging(curve: Curve) -> None:
    """Steps that wait for their batches."""
    share = curve.rng.uniform(0.3, 0.8)
    for place in curve.after(curve.rng.uniform(0.0, 0.6)):
        curve.waited[place] = curve.seconds[place] * min(0.95, share * curve.rng.uniform(0.7, 1.3))


def idle(curve: Curve) -> None:
    """A GPU that is hardly used."""
    use = curve.rng.uniform(0, 25)
    for place in curve.after(curve.rng.uniform(0.0, 0.5)):
        curve.use[place] = use * curve.rng.uniform(0.5, 1.1)


def creeping(curve: Curve) -> None:
    """A leak of two tenths of the memory or more, over the whole run."""
    leak = curve.memory[-1] * curve.rng.uniform(0.25, 2.0) / curve.steps
    for place in range(curve.steps):
        curve.memory[place] += leak * place


def dropped(curve: Curve) -> None:
    """A card that slows itself down."""
    slower = curve.rng.uniform(2.5, 5)
    for place in curve.after(curve.rng.uniform(0.4, 0.6)):
        curve.seconds[place] *= slower


FAULTS: dict[Sign, Callable[[Curve], None]] = {
    Sign.GRADIENT_EXPLODING: exploding,
    Sign.GRADIENT_VANISHING: vanishing,
    Sign.GRADIENT_OVERFLOW: overflow,
    Sign.LOSS_RISING: rising,
    Sign.LOSS_STUCK: stuck,
    Sign.LOSS_ZERO: zero,
    Sign.LOSS_SPIKES: spikes,
    Sign.OVERFITTING: overfitting,
    Sign.PERPLEXITY: perplexity,
    Sign.LEARNING_RATE_ZERO: rate_zero,
    Sign.DATA_LAGGING: lagging,
    Sign.GPU_IDLE: idle,
    Sign.MEMORY_CREEPING: creeping,
    Sign.THROUGHPUT_DROPPED: dropped,
}
