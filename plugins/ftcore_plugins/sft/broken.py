"""What to do about a step whose loss or gradient is no number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ftcore.api import Notice, RunError

SIGN = "not-a-number"
PAGE = f"docs/health.md#{SIGN}"


def broken_step(number: int, norm: float, parts: Sequence[tuple[float, Sequence[str]]], *, stepped: bool) -> str:
    """What is no number, and from which rows; `parts` are each rank's loss and rows."""
    lost = [part for part in parts if not math.isfinite(part[0])]
    what, value = ("loss", lost[0][0]) if lost else ("gradient norm", norm)
    rows = ", ".join(origin for _, origins in lost or parts for origin in origins)
    return (
        f"step {number}: the {what} is {value}{'' if stepped else ', before the optimizer stepped'}; its rows: {rows}"
    )


def not_a_number(text: str, args: Any) -> RunError:
    """The error that ends the run, which is a notice as well; `args` are the trainer's arguments."""
    advice = f"look at these rows, or set train.learning_rate to {args.learning_rate / 10:.1g} or less"
    if args.fp16:
        advice = f"{advice}, or train.precision to bf16 or fp32, whose numbers reach further"
    elif not args.max_grad_norm:
        advice = f"{advice}, and train.max_grad_norm to 1.0"
    return _told(text, advice)


def broken_weight(name: str) -> RunError:
    """The error for an update that has spoilt a weight before loss and gradient show it."""
    text = f"the update made {name} infinite or not a number"
    return _told(text, "lower train.learning_rate, and resume with --allow-changes")


def _told(text: str, advice: str) -> RunError:
    notice = Notice(sign=SIGN, text=text, advice=advice, page=PAGE)
    return RunError(f"{text}; {advice} ({PAGE})", notice=notice)
