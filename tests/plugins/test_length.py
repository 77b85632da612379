"""A row of which a part is enough to see that it is too long is not tokenized to its end, whatever formats it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from chat_kit import CHATML, byte_level
from ftcore.api import TOO_LONG, Drop, Example, Row, Rows, Run, RunError
from ftcore.testing import formatted, make_run
from ftcore_plugins.chat import Chat, Options
from ftcore_plugins.common.length import is_far_too_long
from grid_kit import make_format, make_processor, make_row

WORDS = "so many words "
LONG = WORDS * 40_000
"""Half a megabyte."""


def by_letters(texts: Sequence[str]) -> list[list[int]]:
    return [[*text.encode()] for text in texts]


def by_words(texts: Sequence[str]) -> list[list[int]]:
    return [[0] * len(text.split()) for text in texts]


def test_only_what_is_sure_to_be_too_long_is_told_so() -> None:
    assert is_far_too_long(by_letters, ["a" * 641], 10)
    assert is_far_too_long(by_letters, ["a", "b" * 640], 10)
    assert not is_far_too_long(by_letters, ["a" * 641], 0)
    assert not is_far_too_long(by_letters, ["a" * 640], 10), "its tokens are counted one by one"
    assert not is_far_too_long(by_words, ["a" * 10_000], 10), "one token may stand for much"
    assert is_far_too_long(by_words, [" " * 40 + "a " * 10_000], 10)


@attrs.define
class Watched:
    """Tokens that remember the longest text that they were made of."""

    inner: Any
    longest: int = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.longest = max([self.longest, *map(len, texts)])
        return list(self.inner.encode(texts))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return list(self.inner.decode(rows))


def asked(question: str, answer: str, number: int) -> Row:
    return Row(values={"question": question, "answer": answer}, origin=f"x.jsonl:{number}")


def format_of(run: Run, rows: Sequence[Row]) -> Any:
    return Chat(Options()).format_dataset(run, Rows(train=rows, validation=(), fingerprint=""), byte_level(CHATML))


def test_a_chat_counts_it_as_too_long(tmp_path: Path) -> None:
    rows = [asked("is it?", "yes", 1), asked(LONG, "yes", 2), asked("is it?", LONG, 3), asked("is it?", "no", 4)]
    format_ = Chat(Options()).format_dataset(
        make_run(tmp_path), Rows(train=rows, validation=(), fingerprint=""), byte_level(CHATML)
    )
    tokens = Watched(format_.encode.chat.tokens)
    encode = attrs.evolve(format_.encode, chat=attrs.evolve(format_.encode.chat, tokens=tokens))
    run = make_run(tmp_path, data={"validation": 0})
    data = formatted(run, attrs.evolve(format_, encode=encode), rows)
    assert [(drop.origin, drop.reason) for drop in data.ledger.dropped] == [
        ("x.jsonl:2", TOO_LONG),
        ("x.jsonl:3", TOO_LONG),
    ]
    assert [one.replies for one in data.train] == [("yes",), ("no",)]
    assert tokens.longest < len(LONG) / 3
    with pytest.raises(RunError, match=r"^x.jsonl:2: the row has too many tokens, over train.max_length \(2048\)"):
        formatted(make_run(tmp_path, data={"long_rows": "error"}), format_, rows)


def test_a_prompt_that_may_be_cut_is_tokenized_whole(tmp_path: Path) -> None:
    rows = [asked(LONG, "yes", 1), asked("is it?", LONG, 2)]
    run = make_run(tmp_path, data={"long_rows": "cut", "validation": 0})
    format_ = format_of(run, rows)
    data = formatted(run, format_, rows)
    assert [(drop.origin, drop.reason) for drop in data.ledger.dropped] == [("x.jsonl:2", TOO_LONG)]
    [cut] = data.train
    assert (len(cut.input_ids), cut.replies) == (2048, ("yes",))


def test_plain_text(tmp_path: Path) -> None:
    rows = [Row(values={"text": text}, origin="x.txt") for text in (WORDS, LONG)]
    format_ = Chat(Options()).format_dataset(
        make_run(tmp_path), Rows(train=rows, validation=(), fingerprint=""), byte_level(CHATML)
    )
    tokens = Watched(format_.encode.tokens)
    first, second = attrs.evolve(format_.encode, tokens=tokens)(rows)
    assert isinstance(first, Example)
    assert second == Drop(origin="x.txt", reason=TOO_LONG)
    assert tokens.longest < len(LONG) / 3


def test_grids(tmp_path: Path) -> None:
    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, context=LONG)]
    format_ = make_format(make_run(tmp_path), rows, make_processor())
    first, second = format_.encode(rows)
    assert isinstance(first, Example)
    assert second == Drop(origin=rows[1].origin, reason=TOO_LONG)
