"""An action of a row, as the JSON text that the model learns to say, and back from what it said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

__all__ = ["ActionError", "action_of", "answered", "written"]


class ActionError(Exception):
    """What is wrong with an action, in words that follow the column's name."""


def action_of(value: Any, key: str) -> Mapping[str, Any]:
    """The action as an object: from one, from the JSON text of one, or from the bare word that is its `key`.

    Raises `ActionError`.
    """
    action = _parsed(value, key) if isinstance(value, str) else value
    if not isinstance(action, Mapping):
        raise ActionError(f"must be an object, its JSON text or a word, not {type(value).__name__}")
    if key not in action:
        raise ActionError(f"has no {key!r}; it has {', '.join(map(repr, action)) or 'nothing'}")
    if not isinstance(action[key], str) or not action[key].strip():
        raise ActionError(f"must have a text as its {key!r}, not {action[key]!r}")
    return action


def written(action: Mapping[str, Any], key: str, keys: Sequence[str]) -> str:
    """The JSON text, always in the same order: by `keys`, or else `key` first and the others by name.

    With `keys`, only these are written, those of them that the action has. Raises `ActionError`.
    """
    order = [name for name in keys if name in action] or [key, *sorted(action.keys() - {key})]
    try:
        # Twice, so that inner objects are in order, too.
        inner = {name: json.loads(json.dumps(action[name], sort_keys=True, allow_nan=False)) for name in order}
    except (ValueError, TypeError, RecursionError) as error:
        raise ActionError(f"cannot be written as JSON ({error})") from error
    return json.dumps(inner, ensure_ascii=False)


def answered(text: str) -> Mapping[str, Any] | None:
    """The object that an answer is, without a word around it, or None."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _parsed(text: str, key: str) -> Any:
    word = text.strip()
    if not word.startswith(("{", "[", '"')):
        if not word or len(word.splitlines()) > 1:
            raise ActionError("must be a word or a JSON object; the text is empty or has several lines")
        return {key: word}
    try:
        return json.loads(word, parse_constant=_no_constant, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ActionError(f"holds broken JSON ({error})") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is there twice")
    return values
