"""Stops a run early: no improvement for a while, a target that is reached, or a budget of time that is used up."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise

import attrs

from ftcore.api import (
    Event,
    EventKind,
    Notice,
    Point,
    Problem,
    Run,
    Step,
    StopRequest,
    hookimpl,
    option,
    read_events,
    read_points,
)

LOSSES = ("eval_loss", "eval_perplexity")
"""Figures of an evaluation of which less is better; of every score, more is."""

EVALUATIONS = 3
"""Without `patience`, so many evaluations without an improvement are one too many."""

SMOOTHED = 20
"""Training steps whose mean loss is compared; single ones are too noisy."""

PAGE = "docs/health.md#early-stopping"


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.early_stopping]`."""

    metric: str = option("eval_loss", help="figure of an evaluation that must improve: a loss, or eval_NAME of a score")
    patience: int | None = option(
        None,
        at_least=0,
        help="steps without improvement of metric to stop after; three evaluations if unset, 0 for never",
    )
    plateau_steps: int = option(
        0, at_least=0, help="steps without improvement of the training loss to stop after; 0 for never"
    )
    min_delta: float = option(0.0, at_least=0, help="smallest change of metric, or of the loss, that is an improvement")
    target: float | None = option(None, help="value at which to stop")
    target_metric: str = option("", help="figure of an evaluation that target is about; metric if empty")
    max_hours: float | None = option(
        None, above=0, help="hours that the run may train, all its attempts together; exports come after"
    )


class EarlyStopping:
    """Stops a run that improves no more, has reached a target, or has used up its time.

    Each reason asks for a clean stop: a checkpoint, then evaluation and exports as at the end of any run.
    """

    Config = Options

    def __init__(self, config: Options, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._watched: Best | None = None
        self._plateau: Plateau | None = None
        self._asked_for = sorted({config.metric, *([self._target_metric] if config.target is not None else [])})
        self._missing_told = False

    @property
    def _target_metric(self) -> str:
        return self.config.target_metric or self.config.metric

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """Find what could never stop the run, or would always do."""
        return [Problem(key=f"plugin.early_stopping.{key}", message=text) for key, text in _mistakes(run, self.config)]

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Begin to count; time that earlier attempts took is in the journal, which is not cut yet."""
        self._began = self._clock()
        if run.resumed:
            self._spent = spent(read_events(run.folder / "events.jsonl"), read_points(run.folder / "metrics.jsonl"))

    @hookimpl
    def on_step(self, run: Run, step: Step) -> StopRequest | None:
        """The training loss, and the time."""
        if self._plateau is None:
            self._go_on(run, step.number)
        assert self._plateau is not None  # noqa: S101
        stuck = self._plateau.step(step.number, step.metrics.get("loss", math.nan))
        return _request(stuck or self._late())

    @hookimpl
    def on_evaluation(self, run: Run, step: int, metrics: Mapping[str, float]) -> Sequence[StopRequest | Notice]:
        """The target first: a run that reaches it has not failed to improve."""
        if self._watched is None:
            self._go_on(run, step)
        assert self._watched is not None  # noqa: S101
        reason = self._reached(step, metrics) or self._watched.evaluation(step, metrics)
        request = _request(reason)
        return [*([request] if request else []), *self._missing(metrics)]

    def _go_on(self, run: Run, step: int) -> None:
        """Count from where an earlier attempt was."""
        patience = patience_of(run, self.config)
        self._watched = Best(self.config.metric, patience, self.config.min_delta)
        self._plateau = Plateau(self.config.plateau_steps, self.config.min_delta)
        for point in read_points(run.folder / "metrics.jsonl") if run.resumed else ():
            if point.step < step:
                self._watched.evaluation(point.step, point.metrics)
                self._plateau.step(point.step, point.metrics.get("loss", math.nan))

    def _reached(self, step: int, metrics: Mapping[str, float]) -> str:
        target, name = self.config.target, self._target_metric
        value = metrics.get(name, math.nan)
        if target is None or not (value <= target if name in LOSSES else value >= target):
            return ""
        return f"{name} is {value:.4g} at step {step}, and its target {target:g}"

    def _late(self) -> str:
        hours = (self._spent + self._clock() - self._began) / 3600
        budget = self.config.max_hours
        return f"{hours:.2f} hours are over, of {budget:g}" if budget is not None and hours >= budget else ""

    def _missing(self, metrics: Mapping[str, float]) -> Iterator[Notice]:
        """Which scores there are is known by the first evaluation only."""
        lacking = [name for name in self._asked_for if name not in metrics]
        if not lacking or self._missing_told:
            return
        self._missing_told = True
        text = f"early_stopping watches {lacking[0]}, which is not measured{_nearest(lacking[0], metrics)}"
        advice = f"set plugin.early_stopping.metric or target_metric to one of {', '.join(sorted(metrics))}"
        yield Notice(sign="early-stopping", text=text, advice=advice, page=PAGE)


class Best:
    """The best value of a figure so far, and for how many steps it has not been beaten. A patience of 0 has no end."""

    def __init__(self, metric: str, patience: int, min_delta: float) -> None:
        self._metric, self._patience, self._min_delta = metric, patience, min_delta
        self._sign = 1 if metric in LOSSES else -1
        self._best, self._at = math.inf, 0

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> str:
        """Why to stop; nothing as long as there is hope."""
        value = self._sign * metrics.get(self._metric, math.nan)
        if math.isnan(value):
            return ""
        if value < self._best - self._min_delta or self._best == math.inf:
            self._best, self._at = value, step
        if not self._patience or step - self._at < self._patience:
            return ""
        best = self._sign * self._best
        return f"{self._metric} has not improved on {best:.4g}, of step {self._at}, for {step - self._at} steps"


class Plateau:
    """The same for the mean training loss of the last steps."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._losses: deque[float] = deque(maxlen=SMOOTHED)
        self._best, self._at = math.inf, 0

    def step(self, step: int, loss: float) -> str:
        """Why to stop; nothing as long as there is hope."""
        if not self._patience or math.isnan(loss):
            return ""
        self._losses.append(loss)
        if len(self._losses) < SMOOTHED:
            return ""
        mean = math.fsum(self._losses) / SMOOTHED
        if mean < self._best - self._min_delta or self._best == math.inf:
            self._best, self._at = mean, step
        if step - self._at < self._patience:
            return ""
        return (
            f"the training loss has not improved on {self._best:.4g}, of step {self._at}, for {step - self._at} steps"
        )


def patience_of(run: Run, config: Options) -> int:
    """Steps without improvement of `metric` that end the run; 0 for none."""
    return EVALUATIONS * run.profile.train.eval_steps if config.patience is None else config.patience


def spent(events: Iterable[Event], points: Iterable[Point]) -> float:
    """Seconds that earlier attempts took: each from its first stage to its last sign of life."""
    told = [*events]
    begun = [event.time for event in told if event.kind is EventKind.STAGE and event.values.get("number") == 1]
    signs = sorted([*(event.time for event in told), *(point.time for point in points)])
    attempts = pairwise([*begun, math.inf])
    return math.fsum(max(0.0, signs[bisect_left(signs, after) - 1] - begin) for begin, after in attempts)


def _request(reason: str) -> StopRequest | None:
    return StopRequest(reason=f"early_stopping: {reason}") if reason else None


def _mistakes(run: Run, config: Options) -> Iterator[tuple[str, str]]:
    train = run.profile.train
    target = config.target_metric or config.metric
    for key, name in (("metric", config.metric), ("target_metric", config.target_metric)):
        if name and not name.startswith("eval_"):
            yield key, f"{name!r} is no figure of an evaluation{_hint(name)}"
        elif name and name not in LOSSES and not train.eval_samples:
            yield key, f"{name} is never measured, since train.eval_samples = 0; raise it, or watch eval_loss"
    if config.target_metric and config.target is None:
        yield "target_metric", "there is no target for it; set target as well"
    if config.target is not None and target == "eval_perplexity" and config.target < 1:
        yield "target", f"a perplexity is at least 1, and never {config.target:g}; set a higher one"
    if config.target is not None and target == "eval_loss" and config.target < 0:
        yield "target", f"a loss is at least 0, and never {config.target:g}; set a higher one"
    yield from _of_evaluations(run, config)


def _of_evaluations(run: Run, config: Options) -> Iterator[tuple[str, str]]:
    every = run.profile.train.eval_steps
    if not every:
        other = config.plateau_steps or config.max_hours
        if config.patience or config.target is not None or not other:
            key = "target" if config.target is not None else "patience" if config.patience else "metric"
            yield key, f"{config.metric} is never measured, since train.eval_steps = 0; set it, such as to 100"
    elif config.patience and config.patience < every:
        yield "patience", f"{config.patience} steps are over before the next evaluation; train.eval_steps is {every}"
    elif config.patience == 0 and config.target is None and not (config.plateau_steps or config.max_hours):
        yield "patience", "nothing can stop the run; set patience, plateau_steps, target or max_hours"
    total = run.profile.train.max_steps
    if total and config.plateau_steps >= total:
        yield "plateau_steps", f"the run ends after {total} steps (train.max_steps), before this can be over"


def _hint(name: str) -> str:
    if name in ("loss", "train_loss"):
        return "; for the training loss, set plateau_steps"
    return f"; did you mean 'eval_{name}'?"


def _nearest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, [*known], n=1)
    return f"; did you mean {found[0]}?" if found else ""
