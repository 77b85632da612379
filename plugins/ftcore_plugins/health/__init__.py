"""Watches every step, and says in a sentence what is wrong and what to try. On without a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from ftcore.api import Notice, Problem, Run, Step, hookimpl, read_points
from ftcore_plugins.health.evaluations import Absurd, Overfitting
from ftcore_plugins.health.gradients import Exploding, Overflow, RateZero, Vanishing
from ftcore_plugins.health.learning import Stuck
from ftcore_plugins.health.losses import Rising, Spikes, Zero
from ftcore_plugins.health.machine import Creeping, Full
from ftcore_plugins.health.options import Options
from ftcore_plugins.health.signs import Lookout, Sign
from ftcore_plugins.health.speed import Idle, Lagging, Slower
from ftcore_plugins.health.watch import Watch

__all__ = ["Health", "Options", "lookouts"]


class Health:
    """Says in a sentence what is wrong with a run, and what to try.

    What it tells follows from the figures of the run alone; docs/health.md explains each sign.
    """

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self._watch: Watch | None = None

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """Every sign that is not to be told must be one."""
        known = [*Sign]
        return [
            Problem(key="plugin.health.off", message=f"no such sign: {name}{_near(name)}; there are {', '.join(known)}")
            for name in self.config.off
            if name not in known
        ]

    @hookimpl
    def on_step(self, run: Run, step: Step) -> Sequence[Notice]:
        """What is new as of this step."""
        if self._watch is None:
            self._watch = self._begun(run, step)
        return self._watch.step(step)

    @hookimpl
    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> Sequence[Notice]:
        """What is new as of this evaluation."""
        return [] if self._watch is None else self._watch.evaluation(step, metrics)

    def _begun(self, run: Run, step: Step) -> Watch:
        """What watches from now on. A run that goes on has told what it has told; its machine is looked at anew."""
        learning, machine = lookouts(run, self.config)
        before = Watch(learning, self.config.window)
        for point in read_points(run.folder / "metrics.jsonl") if run.resumed else ():
            if point.step >= step.number:
                break
            if "eval_loss" in point.metrics:
                before.evaluation(point.step, point.metrics)
            if "loss" in point.metrics:
                epoch = point.metrics.get("epoch", 0.0)
                before.step(Step(number=point.step, total=step.total, epoch=epoch, metrics=point.metrics))
        return before.with_more(machine)


def lookouts(run: Run, config: Options) -> tuple[list[Lookout], list[Lookout]]:
    """Those for what is learned, and those for the machine."""
    profile = run.profile
    lagging = Lagging(profile, config)
    learning: list[Lookout] = [
        Exploding(profile, config),
        Vanishing(profile),
        Overflow(config),
        RateZero(profile),
        Rising(profile, config),
        Stuck(profile, config),
        Zero(profile, config),
        Spikes(profile),
        Overfitting(profile, config),
        Absurd(config),
    ]
    machine: list[Lookout] = [
        lagging,
        Idle(profile, config, lagging),
        Slower(config),
        Creeping(config),
        Creeping(config, "a GPU"),
        Full(run, config),
    ]
    return [each for each in learning if each.sign not in config.off], [
        each for each in machine if each.sign not in config.off
    ]


def _near(name: str) -> str:
    found = get_close_matches(name, [*Sign], n=1)
    return f" (did you mean {found[0]}?)" if found else ""
