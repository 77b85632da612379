"""How well answers fit the actions of held-out rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ftcore.api import Prediction
from ftcore_plugins.gemma_grid.action import answered

__all__ = ["scores"]

INVALID, OTHER = "(invalid)", "(other)"
"""An answer that names no action, and one that names an action which no scored row has."""


def scores(predictions: Sequence[Prediction], key: str) -> Mapping[str, float]:
    """Shares of the answers, and counts by action.

    `valid_json`: the answer is one JSON object. `KEY_accuracy`: it names the row's action. `exact`: it is the
    row's whole action. `commonest_share`: what always answering the commonest action would get, to compare
    with. `target/X` and `predicted/X` count actions; `confusion/X/Y` counts rows of action X answered with Y.
    """
    targets = [answered(prediction.example.replies[-1]) or {} for prediction in predictions]
    answers = [answered(prediction.answer) for prediction in predictions]
    wanted = Counter(str(target.get(key)) for target in targets)
    pairs = [
        (str(target.get(key)), _named(answer, key, wanted)) for target, answer in zip(targets, answers, strict=True)
    ]
    rows = len(predictions)
    return {
        "valid_json": sum(answer is not None for answer in answers) / rows,
        f"{key}_accuracy": sum(target == answer for target, answer in pairs) / rows,
        "exact": sum(target == answer for target, answer in zip(targets, answers, strict=True)) / rows,
        "commonest_share": max(wanted.values()) / rows,
        **_counts(pairs, wanted),
    }


def _named(answer: Mapping[str, object] | None, key: str, wanted: Mapping[str, int]) -> str:
    name = answer.get(key) if answer is not None else None
    if not isinstance(name, str):
        return INVALID
    return name if name in wanted else OTHER


def _counts(pairs: Sequence[tuple[str, str]], wanted: Mapping[str, int]) -> Mapping[str, float]:
    names = sorted(wanted)
    predicted = Counter(answer for _, answer in pairs)
    confused = Counter(pair for pair in pairs)
    return {
        **{f"target/{name}": float(wanted[name]) for name in names},
        **{f"predicted/{name}": float(predicted[name]) for name in (*names, OTHER, INVALID)},
        **{f"confusion/{target}/{answer}": float(count) for (target, answer), count in sorted(confused.items())},
    }
