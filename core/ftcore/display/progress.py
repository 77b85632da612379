"""How far a run is: one value, made from the points and events of its journal, that every view draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ftcore.display.curve import Curve
from ftcore.values import Event, EventKind, Notice, Point, RunState

RECENT = 60
NOTICES = 5
EVALUATED = "eval_"
TRAINING = "training"


@attrs.frozen
class Mark:
    """Something that happened after `step`, at `time`: a checkpoint, a notice, the first point."""

    step: int
    time: float
    path: str = ""
    notice: Notice | None = None


@attrs.frozen(kw_only=True)
class Progress:
    """A run as it can be seen from its journal. `metrics` has the newest value of each name.

    `recent` holds the last losses, one a point; `notices` the last few of `noticed`.
    `started` is when training began or went on, 0 before; `begun` the first point since. `trained_in` is the number
    of that stage, and `is_over` says that a later one has come.
    """

    stage: tuple[int, int, str] | None = None
    step: int = 0
    total: int = 0
    time: float = 0.0
    started: float = 0.0
    trained_in: int = 0
    is_over: bool = False
    begun: Mark | None = None
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    evaluation: Mapping[str, float] = attrs.field(factory=dict)
    evaluated_at: int = 0
    recent: tuple[float, ...] = ()
    losses: Curve = attrs.field(factory=Curve)
    eval_losses: Curve = attrs.field(factory=Curve)
    checkpoint: Mark | None = None
    notices: tuple[Mark, ...] = ()
    noticed: int = 0
    artifacts: tuple[tuple[str, str], ...] = ()
    state: RunState = RunState.RUNNING
    reason: str = ""

    def after(self, told: Point | Event) -> Progress:
        """This progress with one line more of either file."""
        return self.after_point(told) if isinstance(told, Point) else self.after_event(told)

    def after_point(self, point: Point) -> Progress:
        """This progress with what was measured."""
        judged = {name: value for name, value in point.metrics.items() if name.startswith(EVALUATED)}
        if judged:
            return self._evaluated(point, judged)
        begun = self.begun
        if begun is None and point.time >= self.started and "loss" in point.metrics:
            begun = Mark(point.step, point.time)
        return attrs.evolve(
            self,
            step=max(self.step, point.step),
            time=max(self.time, point.time),
            begun=begun,
            metrics={**self.metrics, **point.metrics},
            **self._trend(point),
        )

    def after_event(self, event: Event) -> Progress:
        """This progress with what happened. What a newer version may write in another form changes nothing."""
        change = CHANGES.get(event.kind)
        if change is None:
            return self
        try:
            return attrs.evolve(self, **change(self, event))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            return self

    def of_total(self, total: int) -> Progress:
        """This progress with the number of steps that are planned."""
        return self if self.total == total else attrs.evolve(self, total=total)

    def seconds_left(self, now: float | None = None) -> float | None:
        """Until the last step, at the pace since training began or went on; None before the second point.

        None as well when `now` is later than that: the run has come to a halt, and nobody knows.
        """
        if self.begun is None or self.step <= self.begun.step or not self.total:
            return None
        pace = (self.time - self.begun.time) / (self.step - self.begun.step)
        left = pace * (self.total - self.step)
        waited = 0.0 if now is None else max(0.0, now - self.time)
        return None if waited > left > 0 else max(0.0, left - waited)

    def _trend(self, point: Point) -> dict[str, Any]:
        """What the loss of a step that is new changes; one that is no number is in no curve."""
        loss = point.metrics.get("loss", math.nan)
        if not math.isfinite(loss) or point.step <= self.losses.last_step:
            return {}
        return {"losses": self.losses.extended(point.step, loss), "recent": (*self.recent[1 - RECENT :], loss)}

    def _evaluated(self, point: Point, judged: Mapping[str, float]) -> Progress:
        loss = judged.get("eval_loss", math.nan)
        known = self.evaluation if point.step == self.evaluated_at else {}
        fresh = math.isfinite(loss) and point.step > self.eval_losses.last_step
        return attrs.evolve(
            self,
            evaluation={**known, **judged},
            evaluated_at=point.step,
            eval_losses=self.eval_losses.extended(point.step, loss) if fresh else self.eval_losses,
        )


def _started(progress: Progress, event: Event) -> dict[str, Any]:
    step = int(event.values["from_step"])
    return {
        "step": step,
        "total": int(event.values["total_steps"]),
        "started": event.time,
        "trained_in": progress.stage[0] if progress.stage else 0,
        "is_over": False,
        "begun": None,
        "recent": progress.recent if step else (),
        "losses": progress.losses.until(step),
        "eval_losses": progress.eval_losses.until(step),
        "state": RunState.RUNNING,
        "reason": "",
    }


def _staged(progress: Progress, event: Event) -> dict[str, Any]:
    stage = (int(event.values["number"]), int(event.values["total"]), str(event.values["title"]))
    over = 0 < progress.trained_in < stage[0]
    kept = {"started": progress.started, "begun": progress.begun} if over else {"started": 0.0, "begun": None}
    return {"stage": stage, "is_over": over, "state": RunState.RUNNING, "reason": "", **kept}


def _committed(progress: Progress, event: Event) -> dict[str, Any]:
    mark = Mark(event.step, event.time, path=str(event.values["path"]))
    return {"checkpoint": mark, "step": max(progress.step, event.step)}


def _noticed(progress: Progress, event: Event) -> dict[str, Any]:
    values = event.values
    names = ("sign", "text", "advice", "page")
    notice = Notice(**{name: str(values[name]) for name in names if name in values})
    mark = Mark(event.step, event.time, notice=notice)
    return {"notices": (*progress.notices[1 - NOTICES :], mark), "noticed": progress.noticed + 1}


def _written(progress: Progress, event: Event) -> dict[str, Any]:
    return {"artifacts": (*progress.artifacts, (str(event.values["kind"]), str(event.values["proof"]["verdict"])))}


def _ended(_: Progress, event: Event) -> dict[str, Any]:
    return {"state": RunState(event.values["state"]), "reason": str(event.values.get("reason", ""))}


CHANGES: Mapping[EventKind, Callable[[Progress, Event], dict[str, Any]]] = {
    EventKind.STARTED: _started,
    EventKind.STAGE: _staged,
    EventKind.CHECKPOINT: _committed,
    EventKind.NOTICE: _noticed,
    EventKind.ARTIFACT: _written,
    EventKind.ENDED: _ended,
}
