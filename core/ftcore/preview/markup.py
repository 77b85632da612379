"""Rows as HTML. Everything that comes from data goes through `escape`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from ftcore.data.prepare import Prepared
from ftcore.errors import printable
from ftcore.preview.figures import trained_tokens
from ftcore.preview.pictures import Picture, pictures_of
from ftcore.preview.pieces import Piece, Pieces, marks_of, pieces_of
from ftcore.values import Example

MOST_PIECES = 5000
SPACES = {" ": "<i> </i>", "\t": "<u>\t</u>", "\n": "<b>\n</b>"}
"""The style draws a mark in each, which is not copied with the text."""


def rows(prepared: Prepared, examples: Sequence[Example], most_bytes: int) -> Iterator[str]:
    """A section for each row, until they are `most_bytes` together; the first one always."""
    size, marks = 0, marks_of(prepared)
    for number, example in enumerate(examples, start=1):
        pieces = pieces_of(prepared.processor, example, marks, MOST_PIECES)
        section = _row(example, number, _pictures(prepared, example), tokens(pieces))
        size += len(section)
        if number > 1 and size > most_bytes:
            return
        yield section


def label(text: str) -> str:
    """A name or a sentence from the data or the profile, on one line."""
    return escape(printable(text))


def share(part: float) -> str:
    """As percents, with a decimal where it matters."""
    return f"{part:.1%}" if part < 0.1 else f"{part:.0%}"  # noqa: PLR2004


def _row(example: Example, number: int, pictures: str, tokens: str) -> str:
    count, trained = len(example.input_ids), trained_tokens(example)
    return (
        f'<section class="row">\n<h2><span>{number}</span> {label(example.origin)}</h2>\n'
        f"<p>{count:,} tokens, {trained:,} trained ({share(trained / max(1, count))})</p>\n"
        f"{pictures}{tokens}</section>\n"
    )


def _pictures(prepared: Prepared, example: Example) -> str:
    found = pictures_of(prepared, example)
    figures = "".join(map(_figure, found.shown))
    note = f'<p class="note">{label(found.note)}</p>\n' if found.note else ""
    return (f'<div class="pictures">{figures}</div>\n' if figures else "") + note


def _figure(picture: Picture) -> str:
    """A click shows it in its own size: the hidden box remembers it, so that no script is needed."""
    size = f'width="{picture.width}" height="{picture.height}"'
    return (
        f'<figure><label><input type="checkbox"><img src="{picture.source}" {size} alt="{picture.caption}"></label>'
        f"<figcaption>{picture.caption} <small>{picture.width} &times; {picture.height}</small></figcaption></figure>"
    )


def tokens(pieces: Pieces) -> str:
    """The pieces of a row, trained and masked ones told apart by the style of `tokens.css`."""
    left_out = f'<em class="note">{pieces.left_out:,} tokens are left out here</em>' if pieces.left_out else ""
    spans = [*map(_span, pieces.head), left_out, *map(_span, pieces.tail)]
    return f'<pre class="tokens">{"".join(spans)}</pre>\n'


def _span(piece: Piece) -> str:
    classes = f"{'t' if piece.trained else 'm'}{' k' if piece.mark else ''}"
    ids = ", ".join(map(str, piece.ids))
    place = f"{piece.start}" if piece.last == piece.start else f"{piece.start} to {piece.last}"
    times = f"{piece.times:,} &times; " if piece.times > 1 else ""
    return f'<span class="{classes}" title="{ids} at {place}">{times}{_visible(piece.text)}</span>'


def _visible(text: str) -> str:
    """With marks for white space, and escapes for what a reader would not see or that would move other text."""
    shown = escape(printable(text, keep="\n\t"))
    return re.sub(r"[ \t\n]", lambda space: SPACES[space[0]], shown)
