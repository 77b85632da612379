"""What a tokenizer learns from: the texts of the training rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ftcore.api import Rows, RunError

LONGEST_TEXT = 10_000
"""Characters of one text that the tokenizer learns from: a word of millions of letters would keep it for minutes."""

MOST_TEXT = 20_000_000
"""Characters of all texts that it learns from: more would not change a small vocabulary, only fill the memory."""


def texts(rows: Rows) -> Iterator[str]:
    """Every string of the training rows, however deep; held-out rows stay unseen."""
    for row in rows.train:
        yield from _strings(row.values)


def texts_and_objects(rows: Rows) -> Iterator[str]:
    """As `texts`, but an object in a column is the JSON text that a model is trained to answer with."""
    for row in rows.train:
        for value in row.values.values():
            if isinstance(value, Mapping):
                yield json.dumps(value, ensure_ascii=False)
            else:
                yield from _strings(value)


def lessons(texts: Iterable[str]) -> list[str]:
    """The texts that a tokenizer learns from, within the limits. Raises `RunError` when there is none at all."""
    found, room = [], MOST_TEXT
    for text in texts:
        found.append(text[: min(LONGEST_TEXT, room)])
        room -= len(found[-1])
        if not room:
            break
    if not found:
        raise RunError("tiny_model: the training rows hold no text to train a tokenizer on; look at data.path")
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _strings(inner)
