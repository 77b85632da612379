"""Stops a run early: no improvement for a while, a target that is reached, or a budget of time that is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from ftcore.api import Notice, Problem, Run, Step, StopRequest, hookimpl, read_events, read_points
from ftcore_plugins.early_stopping.counting import Best, Plateau, spent
from ftcore_plugins.early_stopping.options import LOSSES, Options, patience_of, problems

PAGE = "docs/health.md#early-stopping"


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
        return [*problems(run, self.config)]

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


def _request(reason: str) -> StopRequest | None:
    return StopRequest(reason=f"early_stopping: {reason}") if reason else None


def _nearest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, [*known], n=1)
    return f"; did you mean {found[0]}?" if found else ""
