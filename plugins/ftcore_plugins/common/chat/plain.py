"""Plain text to tokens, every one of which is trained: for continued pre-training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs

from ftcore.api import MASKED, TOO_LONG, Drop, Example, Format, Row, Run, RunError
from ftcore_plugins.common.chat.questions import questioning
from ftcore_plugins.common.chat.rows import fingerprint, text_of, tokenizer_of
from ftcore_plugins.common.chat.tokens import Tokens, begins_with_bos, control_tokens, tokens_of
from ftcore_plugins.common.collate import PadRight, pad_id_of
from ftcore_plugins.common.length import is_far_too_long
from ftcore_plugins.common.unfit import refusal_of

__all__ = ["PlainQuestions", "PlainRows", "plain_format"]


@attrs.frozen(kw_only=True)
class PlainRows:
    """`Format.encode` of rows with a text: `before` it go the tokens that begin a text, after it `end`.

    One that is sure to have more than `most` is dropped before it has them all.
    """

    tokens: Tokens
    control: re.Pattern[str]
    column: str
    before: tuple[int, ...]
    end: int
    most: int = 0

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer for each row. Raises `RowError` for a row without a text."""
        texts = [text_of(row, self.column) for row in rows]
        refusals = [self._refusal(text) for text in texts]
        sound = [text for text, refusal in zip(texts, refusals, strict=True) if not refusal]
        encoded = iter(self.tokens.encode(sound))
        return [
            Drop(origin=row.origin, reason=refusal) if refusal else self._example(row, text, next(encoded))
            for row, text, refusal in zip(rows, texts, refusals, strict=True)
        ]

    def _refusal(self, text: str) -> str:
        if not text.strip():
            return "empty text"
        if reason := refusal_of(text, self.control):
            return reason
        return TOO_LONG if is_far_too_long(self.tokens.encode, [text], self.most) else ""

    def _example(self, row: Row, text: str, tokens: list[int]) -> Example:
        ids = [*self.before, *tokens, self.end]
        labels = [MASKED, *ids[1:]]
        return Example(input_ids=ids, labels=labels, replies=(text,), origin=row.origin, folder=row.folder)


@attrs.frozen(kw_only=True)
class PlainQuestions:
    """`Format.ask` of rows with a text: it is gone on with, so its end is left out."""

    rows: PlainRows

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer for each row. Raises `RowError` for a row without a text."""
        return [self._open(answer) if isinstance(answer, Example) else answer for answer in self.rows(rows)]

    def _open(self, example: Example) -> Example:
        ids = list(example.input_ids)[:-1]
        return attrs.evolve(example, input_ids=ids, labels=[MASKED] * len(ids), replies=())


def plain_format(run: Run, processor: Any, column: str) -> Format:
    """The answer of `format_dataset` for rows of plain text. Raises `RunError` without an end-of-text token."""
    tokenizer = tokenizer_of(processor)
    if tokenizer.eos_token_id is None:
        raise RunError("model.id: the tokenizer has no end-of-text token, so the model would never stop; name another")
    control = control_tokens(tokenizer)
    rows = PlainRows(
        tokens=tokens_of(tokenizer, control),
        control=control,
        column=column,
        before=(tokenizer.bos_token_id,) if begins_with_bos(tokenizer) else (),
        end=tokenizer.eos_token_id,
        most=run.profile.train.max_length,
    )

    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return Format(
        encode=rows,
        collate=PadRight(pad_id=pad_id_of(tokenizer)),
        processor=processor,
        end_of_turn=rows.end,
        trains="everything",
        fingerprint=fingerprint(rows.tokens, "", special),
        ask=PlainQuestions(rows=rows),
        question=questioning(lambda prompt: {column: prompt}),
    )
