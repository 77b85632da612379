"""What a run tells those who watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import attrs

from ftcore.values.runs import RunState


@attrs.frozen(kw_only=True)
class Point:
    """One line of `metrics.jsonl`: what was measured after `step`, at `time` (seconds since 1970, UTC).

    A step may have several: its own, and that of its evaluation, whose names begin with `eval_`.
    """

    step: int
    time: float
    metrics: Mapping[str, float]


class EventKind(StrEnum):
    """What happened. Which values each kind comes with is in docs/journal.md, and is stable."""

    STARTED = "started"
    STAGE = "stage"
    DATA = "data"
    MODEL = "model"
    ANSWERS = "answers"
    CHECKPOINT = "checkpoint"
    NOTICE = "notice"
    ARTIFACT = "artifact"
    ENDED = "ended"


@attrs.frozen(kw_only=True)
class Event:
    """One line of `events.jsonl`. `step` is the last one taken, 0 before the first; `values` are what JSON can hold."""

    kind: EventKind
    step: int
    time: float
    values: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Notice:
    """Something is wrong, or may be: a sentence on what was seen, and one on what to try.

    `sign` is its stable name, such as `loss-rising`; `page` is where the docs explain it, such as
    `docs/health.md#loss-rising`.
    """

    sign: str
    text: str
    advice: str = ""
    page: str = ""

    def told(self, step: int) -> str:
        """As a line for the user."""
        return f"warning: step {step}: {self.text}{f'; {self.advice}' if self.advice else ''}"


class Tracker(Protocol):
    """What `track` returns: sends what a run wrote down to somewhere else.

    It lives in a process of its own beside the run, and every method is called there, one after another. It may
    block, raise, or be killed: then what it was given is given again, by the next process if need be, until the
    method has returned once. So points may come twice; steps never go back but after a `STARTED` event, whose
    `from_step` says where the run went on from.
    """

    def send(self, points: Sequence[Point]) -> None:
        """Send points, oldest first. Those of one call may be sent in one go."""

    def tell(self, event: Event) -> None:
        """Send what else is worth showing of an event; `ENDED` comes to `close` instead."""

    def close(self, state: RunState, reason: str) -> None:
        """All is sent, and the run has ended: finished, stopped or failed. A killed run has failed."""
