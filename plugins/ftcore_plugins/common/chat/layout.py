"""Where replies stand in what a template writes, learned once for each order of roles."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from ftcore.api import RunError
from ftcore_plugins.common.chat.exact import Exact, Pieces, Turns
from ftcore_plugins.common.chat.messages import Conversation

__all__ = ["Layout", "probe_conversation"]

MOST_SHAPES = 1000
"""Orders of roles that are remembered; rows of another one are cut by rendering each prompt."""

NAMED = re.compile(r"ftcore(\d{4})probe")

Shape = tuple[tuple[str | int, ...], ...]
"""The pieces of a conversation: literal texts of the template, and numbers of the messages between them."""

Key = tuple[tuple[str, ...], Turns]


@attrs.frozen(kw_only=True)
class Layout:
    """Cuts rendered conversations as `Exact` does, but renders each once instead of once more for each reply.

    For an order of roles, `Exact` cuts a probe; the literal texts between its messages are the shape of all
    conversations of that order. A conversation whose text is that shape with its own messages in it, letter by
    letter, is cut like the probe, and any other by `Exact`. The text alone tells, since templates depend on the
    number and roles of messages, which the probe shares, and on what they look for in a message: one that
    has something of `looked_for` is left to `Exact`. `strips` are the roles whose texts the template strips.
    """

    exact: Exact
    looked_for: re.Pattern[str]
    strips: frozenset[str] = frozenset()
    shapes: dict[Key, Shape | None] = attrs.field(factory=dict, eq=False, repr=False)

    def pieces(self, conversations: Sequence[Conversation], turns: Sequence[Turns]) -> list[Pieces]:
        """See `Exact.pieces`."""
        shapes = [self._shape(one, row) for one, row in zip(conversations, turns, strict=True)]
        known = [place for place, shape in enumerate(shapes) if shape]
        texts = self.exact.template.texts([conversations[place] for place in known]) if known else []
        found: list[Pieces | None] = [None] * len(shapes)
        for place, text in zip(known, texts, strict=True):
            found[place] = self._filled(conversations[place], shapes[place] or (), text)
        left = [place for place, pieces in enumerate(found) if pieces is None]
        if left:
            cut = self.exact.pieces([conversations[place] for place in left], [turns[place] for place in left])
            for place, pieces in zip(left, cut, strict=True):
                found[place] = pieces
        return [pieces for pieces in found if pieces is not None]

    def _shape(self, one: Conversation, turns: Turns) -> Shape | None:
        if not one.plain or self.looked_for.search("\n".join([message["content"] for message in one.messages])):
            return None
        key = (one.roles, turns)
        if key not in self.shapes:
            if len(self.shapes) >= MOST_SHAPES:
                return None
            self.shapes[key] = self._learned(*key)
        return self.shapes[key]

    def _learned(self, roles: tuple[str, ...], turns: Turns) -> Shape | None:
        names = [f"ftcore{place:04}probe" for place in range(len(roles))]
        other = [f"{name} and\n\n more. {name[6:10]}" for name in names]
        try:
            short, long = self.exact.pieces([probe_conversation(roles, texts) for texts in (names, other)], [turns] * 2)
        except RunError:  # told with the row that it concerns
            return None
        shape = tuple(_parts(piece) for piece in short)
        places = [part for piece in shape for part in piece if isinstance(part, int)]
        return shape if sorted(places) == [*range(len(roles))] and _fill(shape, other) == long else None

    def _filled(self, one: Conversation, shape: Shape, text: str) -> Pieces | None:
        strips = self.strips
        contents = [
            message["content"].strip() if message["role"] in strips else message["content"] for message in one.messages
        ]
        pieces = _fill(shape, contents)
        return pieces if "".join(pieces) == text else None


def probe_conversation(roles: Sequence[str], texts: Sequence[str]) -> Conversation:
    """A conversation to try a template with."""
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return Conversation(messages=messages, roles=tuple(roles), origin="chat template")


def _parts(piece: str) -> tuple[str | int, ...]:
    # Splitting at a group gives text, number, text, number, ..., text.
    split = NAMED.split(piece)
    parts = [int(part) if place % 2 else part for place, part in enumerate(split)]
    return tuple(part for part in parts if part != "")


def _fill(shape: Shape, contents: Sequence[str]) -> Pieces:
    return ["".join([contents[part] if type(part) is int else part for part in piece]) for piece in shape]  # type: ignore[misc]
