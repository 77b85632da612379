"""Rows to examples, and all that a formatter of chats answers to the engine."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import attrs

from ftcore.api import Drop, Example, Format, Row, RowError, Run
from ftcore_plugins.common.chat.calls import parsed
from ftcore_plugins.common.chat.encoding import ChatFormat, Refused
from ftcore_plugins.common.chat.messages import Conversation, Message, kind_of
from ftcore_plugins.common.chat.tokens import Tokens
from ftcore_plugins.common.collate import PadRight, pad_id_of

__all__ = [
    "PRELUDE",
    "ChatRows",
    "asked",
    "bounded",
    "fingerprint",
    "format_of",
    "history_of",
    "text_of",
    "tokenizer_of",
]

PRELUDE = "prelude"
"""Feature of an example: what comes before the reply proper in reply and answer, such as Qwen 3's empty thoughts."""


def _sound(_: Conversation) -> str:
    return ""


@attrs.frozen(kw_only=True)
class ChatRows:
    """`Format.encode` of rows that are conversations.

    `read` makes a conversation of a row; `fault` says why one is dropped, or nothing.
    """

    chat: ChatFormat
    read: Callable[[Row], Conversation]
    fault: Callable[[Conversation], str] = _sound

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer for each row. Raises `RowError` for a row that is no conversation."""
        conversations = [self.read(row) for row in rows]
        features = {PRELUDE: self.chat.prelude} if self.chat.prelude else {}
        answers: list[Example | Drop] = []
        for row, one, encoded in zip(rows, conversations, self.chat.encode(conversations), strict=True):
            reason = encoded.reason if isinstance(encoded, Refused) else self.fault(one)
            if reason or isinstance(encoded, Refused):
                answers.append(Drop(origin=row.origin, reason=reason))
                continue
            answers.append(
                Example(
                    input_ids=encoded.input_ids,
                    labels=encoded.labels,
                    replies=encoded.replies,
                    origin=row.origin,
                    features=features,
                    folder=row.folder,
                )
            )
        return answers


def format_of(chat: ChatFormat, rows: ChatRows, processor: Any) -> Format:
    """The answer of `format_dataset`: the tuned model is saved with the template that it was trained in."""
    template = chat.layout.exact.template
    return Format(
        encode=rows,
        collate=PadRight(pad_id=pad_id_of(tokenizer_of(processor))),
        processor=_with_template(processor, template.source),
        end_of_turn=chat.end_of_turn,
        other_ends=chat.other_ends,
        inner_ends=chat.inner_ends,
        trains="everything" if chat.train == "everything" else "replies",
        fingerprint=fingerprint(chat.tokens, template.source, {**template.special, **template.variables}),
    )


def bounded(chat: ChatFormat, run: Run) -> ChatFormat:
    """The format for rows of a run, which bears so many tokens, and may cut the others."""
    return attrs.evolve(chat, most=run.profile.train.max_length, cuts=run.profile.data.long_rows == "cut")


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer that a processor holds, or is."""
    return getattr(processor, "tokenizer", processor)


def fingerprint(tokens: Tokens, template: str, variables: Mapping[str, Any]) -> str:
    """A SHA-256 over what decides about the tokens of a row, besides its text; empty if some of it is not known."""
    source = tokens.source()
    if not source:
        return ""
    versions = [version(library) for library in ("tokenizers", "transformers", "jinja2")]
    parts = json.dumps([template, sorted(variables.items()), versions])
    return hashlib.sha256(f"{source}\0{parts}".encode()).hexdigest()


def asked(question: str, reply: str) -> list[Message]:
    """The messages of one question and its reply."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def history_of(row: Row) -> list[Message]:
    """The messages before the question: the pairs of question and reply in a column `history`, as LLaMA-Factory has it.

    Raises `RowError` if something else is in it.
    """
    raw = row.values.get("history") or []
    pairs = parsed(raw) if isinstance(raw, str) else raw
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        reason = "column 'history' must be a list of pairs of question and reply; name it otherwise by data.columns"
        raise RowError(reason, origin=row.origin)
    return [message for question, reply in pairs for message in asked(question, reply)]


def text_of(row: Row, column: str, required: bool = True) -> str:
    """The text in a column of a row. Raises `RowError` for anything else, null and none being nothing if allowed."""
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    if value is None and not required:
        return ""
    if column not in row.values:
        there = ", ".join(row.values) or "none"
        raise RowError(f"no column {column!r}; the row has {there}", origin=row.origin)
    raise RowError(f"column {column!r} must be a text, not {kind_of(value)}", origin=row.origin)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and [type(text) for text in value] == [str, str]


def _with_template(processor: Any, source: str) -> Any:
    """The processor, or a copy of it with another chat template: the one that was given is not ours to change."""
    tokenizer = tokenizer_of(processor)
    if tokenizer.chat_template == source:
        return processor
    made = copy.copy(tokenizer)
    made.chat_template = source
    if tokenizer is processor:
        return made
    outer = copy.copy(processor)
    outer.tokenizer, outer.chat_template = made, source
    return outer
