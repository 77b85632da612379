"""A row cut into what is shown as one: a token, a letter of several tokens, or a mark that is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.data.proof import decode
from ftcore.values import MASKED, Example

BROKEN = "\N{REPLACEMENT CHARACTER}"
LETTER = 4
"""Most tokens that one letter is spread over: UTF-8 has no longer ones."""


@attrs.frozen(kw_only=True)
class Piece:
    """Tokens from `start` on that are shown together and are all trained, or all masked.

    A mark is a token with a meaning of its own: one that must never be trained, such as an image token, or a
    special one. `times` counts the marks of an unbroken run.
    """

    text: str
    ids: Sequence[int]
    start: int
    trained: bool
    mark: bool = False
    times: int = 1

    @property
    def last(self) -> int:
        """The position of the last token."""
        return self.start + max(len(self.ids), self.times) - 1


@attrs.frozen(kw_only=True)
class Pieces:
    """The pieces of a row. Of a long one the middle is left out: `left_out` tokens between `head` and `tail`."""

    head: Sequence[Piece]
    tail: Sequence[Piece] = ()
    left_out: int = 0


def pieces_of(processor: Any, example: Example, marks: frozenset[int], most: int) -> Pieces:
    """The pieces of a row, about `most` of them at most. Runs of one mark are one piece, however long."""
    units = _units(example, marks)
    if len(units) <= most:
        return Pieces(head=list(_pieces(processor, example, units, marks)))
    head, tail = units[: most // 2], units[-(most - most // 2) :]
    return Pieces(
        head=list(_pieces(processor, example, head, marks)),
        tail=list(_pieces(processor, example, tail, marks)),
        left_out=tail[0].start - head[-1].stop,
    )


def marks_of(prepared: Prepared) -> frozenset[int]:
    """Tokens that must never be trained, and those that the tokenizer calls special."""
    tokenizer = getattr(prepared.processor, "tokenizer", prepared.processor)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token for token, text in added.items() if getattr(text, "special", False)}
    return prepared.data.never_trained | special


def _units(example: Example, marks: frozenset[int]) -> list[range]:
    """Positions: of each token alone, or of a whole run of one mark."""
    units: list[range] = []
    before: tuple[int, int] | None = None
    for position, key in enumerate(zip(example.input_ids, example.labels, strict=True)):
        if key == before and key[0] in marks:
            units[-1] = range(units[-1].start, position + 1)
        else:
            units.append(range(position, position + 1))
        before = key
    return units


def _pieces(processor: Any, example: Example, units: Sequence[range], marks: frozenset[int]) -> Iterator[Piece]:
    place = 0
    while place < len(units):
        unit = units[place]
        token, trained = example.input_ids[unit.start], example.labels[unit.start] != MASKED
        mark = token in marks
        if mark:
            ids, text = [token], decode(processor, [token])
        else:
            room = _room(example, units[place : place + LETTER], marks)
            ids, text = _letters(processor, example, unit.start, room)
        yield Piece(text=text, ids=ids, start=unit.start, trained=trained, mark=mark, times=len(unit))
        place += len(ids)


def _room(example: Example, units: Sequence[range], marks: frozenset[int]) -> int:
    """How many of the tokens may be one letter: neither marks, nor some trained and some masked."""
    first = example.labels[units[0].start] == MASKED
    for count, unit in enumerate(units):
        if example.input_ids[unit.start] in marks or (example.labels[unit.start] == MASKED) != first:
            return count
    return len(units)


def _letters(processor: Any, example: Example, start: int, room: int) -> tuple[list[int], str]:
    """The fewest tokens from `start` on whose text has no broken letter; one, if there are none such."""
    for count in range(1, room + 1):
        text = _text(processor, example, start, count)
        if BROKEN not in text:
            return list(example.input_ids[start : start + count]), text
    return [example.input_ids[start]], _text(processor, example, start, 1)


def _text(processor: Any, example: Example, start: int, count: int) -> str:
    """What the tokens add to the one before: some tokenizers strip the space of a text's first token."""
    ids = list(example.input_ids[max(0, start - 1) : start + count])
    if not start:
        return decode(processor, ids)
    before, both = decode(processor, ids[:1]), decode(processor, ids)
    return both[len(before) :] if both.startswith(before) else decode(processor, ids[1:])
