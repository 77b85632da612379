"""Rows that nobody has answered yet: what a formatter of chats says about asking a tuned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import Drop, Example, Format, Row, RunError
from ftcore_plugins.common.chat.calls import parsed
from ftcore_plugins.common.chat.messages import ROLES
from ftcore_plugins.common.chat.rows import ChatRows

__all__ = ["STAND_IN", "Questions", "asking", "lacks", "listed", "questioning", "with_reply", "with_turn"]

STAND_IN = "ok"
"""A reply, since a chat template wants one. No prompt depends on it."""


@attrs.frozen(kw_only=True)
class Questions:
    """`Format.ask` of rows that are conversations. `completed` puts `STAND_IN` where a row lacks its reply."""

    rows: ChatRows
    completed: Callable[[Row], Row]

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer for each row. Raises `RowError` for a row that asks nothing."""
        whole = [self.completed(row) for row in rows]
        pairs = zip(self.rows(whole), rows, whole, strict=True)
        return [answer if _has_reply(row, other) else _without_reply(answer) for answer, row, other in pairs]


def asking(
    format_: Format, rows: ChatRows, completed: Callable[[Row], Row], row_of: Callable[[str], Mapping[str, Any]]
) -> Format:
    """The format, able to be asked: whatever it trains, the last reply is what is left out.

    `row_of` answers the columns of a row that asks a text.
    """
    last = attrs.evolve(rows, chat=attrs.evolve(rows.chat, train="last"), fault=_none)
    return attrs.evolve(format_, ask=Questions(rows=last, completed=completed), question=questioning(row_of))


def questioning(
    row_of: Callable[[str], Mapping[str, Any]],
) -> Callable[[str, Sequence[str]], Mapping[str, Any]]:
    """`Format.question` of a run that trains texts alone."""

    def question(prompt: str, images: Sequence[str]) -> Mapping[str, Any]:
        if images:
            raise RunError("--image: this run trains texts alone, and has no place for an image; leave it out")
        return row_of(prompt)

    return question


def with_reply(row: Row, column: str, reply: Any = STAND_IN) -> Row:
    """The row, with `reply` in a column that it lacks or that holds nothing."""
    return attrs.evolve(row, values={**row.values, column: reply}) if lacks(row.values.get(column)) else row


def with_turn(messages: Sequence[Any]) -> list[Any]:
    """The messages with a last reply, if they end with somebody else's or with an empty one."""
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping):
        return list(messages)
    role = ROLES.get(str(last.get("role") or last.get("from")))
    said = last.get("content", last.get("value"))
    empty = role == "assistant" and lacks(said) and not last.get("tool_calls")
    turn = {"role": "assistant", "content": STAND_IN}
    if empty:
        return [*messages[:-1], turn]
    return list(messages) if role == "assistant" else [*messages, turn]


def listed(value: Any) -> list[Any]:
    """The list in a column, also as the JSON text that CSV has of it; empty for anything else."""
    items = parsed(value) if isinstance(value, str) else value
    return list(items) if isinstance(items, list | tuple) else []


def lacks(value: Any) -> bool:
    """Whether a column holds nothing: null, or an empty text."""
    return value is None or (isinstance(value, str) and not value.strip())


def _has_reply(row: Row, whole: Row) -> bool:
    """Whether nothing had to be put into the row. Its messages may be JSON text."""
    before = row.values
    return all(value == before.get(name) or value == listed(before.get(name)) for name, value in whole.values.items())


def _without_reply(answer: Example | Drop) -> Example | Drop:
    return attrs.evolve(answer, replies=()) if isinstance(answer, Example) else answer


def _none(_: Any) -> str:
    return ""
