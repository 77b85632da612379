"""Tokenize conversations, and label exactly what the model has to say: each reply and its end-of-turn token.

A rendered conversation is cut into pieces of text, in turn what the model is given and what it says. The
pieces are tokenized one by one, as they are in use. A tokenizer that sees the whole text may merge the end
of a prompt with the beginning of its reply into one token, which the model never meets when it answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import attrs

from ftcore.api import MASKED, TOO_LONG
from ftcore_plugins.common.chat.exact import Pieces, Turns
from ftcore_plugins.common.chat.layout import Layout
from ftcore_plugins.common.chat.messages import Conversation, Message, texts_of
from ftcore_plugins.common.chat.tokens import Tokens
from ftcore_plugins.common.length import is_far_too_long
from ftcore_plugins.common.unfit import refusal_of

__all__ = ["CHUNK", "ChatFormat", "Encoded", "Refused", "Train"]

CHUNK = 512
"""Conversations that are rendered and tokenized at once: bounds the memory that their text takes."""

Train = Literal["all", "last", "everything"]
"""What is trained of a conversation: all replies, the last one, or every token up to its end."""


@attrs.frozen(kw_only=True)
class Encoded:
    """A tokenized conversation. `replies` are what its trained tokens read, without the end-of-turn tokens."""

    input_ids: list[int]
    labels: list[int]
    replies: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Refused:
    """A conversation that cannot be trained on, and why: a short phrase that many rows share."""

    reason: str


@attrs.frozen(kw_only=True)
class ChatFormat:
    """A tokenizer with a chat template, tried out. Made by `chat_format`.

    `end_of_turn` is the token that ends a reply; for `other_ends` and `inner_ends` see `Format`. `normal` is the
    Unicode form that the tokenizer puts text into; `anchor` goes before a text that must not be tokenized as the
    beginning of a document. `strips` says that the template strips replies. `thoughts` finds those that are written
    into a reply, if the template knows any: it writes them in its own way. A conversation that is sure to have more
    than `most` tokens is refused before it has them all; with `cuts`, only one whose replies do. It pickles, and to
    encode needs neither torch nor the tokenizer of transformers.
    """

    tokens: Tokens
    layout: Layout
    control: re.Pattern[str]
    end_of_turn: int = -1
    other_ends: frozenset[int] = frozenset()
    inner_ends: frozenset[int] = frozenset()
    train: Train = "all"
    normal: Literal["", "NFC", "NFKC"] = ""
    anchor: str = ""
    strips: bool = False
    thoughts: re.Pattern[str] | None = None
    most: int = 0
    cuts: bool = False

    @property
    def prelude(self) -> str:
        """What the template has a model say before the reply proper: it is trained and is part of `replies`."""
        return self.layout.exact.prelude

    @property
    def source(self) -> str:
        """The chat template."""
        return self.layout.exact.template.source

    def encode(self, conversations: Sequence[Conversation]) -> list[Encoded | Refused]:
        """Tokenize conversations: one answer each, in order.

        Raises `RowError` when the template refuses a conversation or does not write its messages as they are.
        """
        starts = range(0, len(conversations), CHUNK)
        return [answer for start in starts for answer in self._chunk(conversations[start : start + CHUNK])]

    def _chunk(self, conversations: Sequence[Conversation]) -> Iterator[Encoded | Refused]:
        ready = [self._prepared(one) for one in conversations]
        turns = [self._turns(one) for one in ready]
        refusals = [self._refusal(one, row) for one, row in zip(ready, turns, strict=True)]
        kept = [place for place, refusal in enumerate(refusals) if not refusal]
        pieces = self.layout.pieces([ready[place] for place in kept], [turns[place] for place in kept])
        for place, row in zip(kept, pieces, strict=True):
            refusals[place] = TOO_LONG if self._is_too_long(row) else ""
        short = [row for place, row in zip(kept, pieces, strict=True) if not refusals[place]]
        encoded = self._tokenized([self._normalized(row) for row in short])
        for refusal in refusals:
            yield Refused(reason=refusal) if refusal else next(encoded)

    def _is_too_long(self, pieces: Pieces) -> bool:
        return is_far_too_long(self.tokens.encode, pieces[1::2] if self.cuts else pieces, self.most)

    def _prepared(self, one: Conversation) -> Conversation:
        """Replies as the template writes them: its own changes must not be mistaken for mistakes."""
        messages = one.messages
        ready = [self._reply(message) if message["role"] == "assistant" else message for message in messages]
        if all(made is message for made, message in zip(ready, messages, strict=True)):
            return one
        plain = one.plain and all(len(message) == 2 for message in ready)  # noqa: PLR2004
        return attrs.evolve(one, messages=ready, plain=plain)

    def _reply(self, message: Message) -> Message:
        content = message["content"]
        found = self.thoughts.match(content) if self.thoughts and "</think>" in content else None
        if found:
            content = found[2]
            message = {**message, "reasoning_content": found[1].strip("\n")} if found[1].strip() else message
        stripped = content.strip() if self.strips else content
        return message if stripped == message["content"] else {**message, "content": stripped}

    def _turns(self, one: Conversation) -> Turns:
        replies = [place for place, role in enumerate(one.roles) if role == "assistant" and place not in one.given]
        return tuple(replies[-1:] if self.train == "last" else replies)

    def _refusal(self, one: Conversation, turns: Turns) -> str:
        contents = [message["content"] for message in one.messages]
        text = "\n".join(contents if one.plain else texts_of([list(one.messages), list(one.tools)]))
        if reason := refusal_of(text, self.control):
            return reason
        replies = (message for message in one.messages if message["role"] == "assistant")
        if any(not message["content"].strip() and "tool_calls" not in message for message in replies):
            return "empty reply"
        return "" if turns else "no reply to train"

    def _normalized(self, pieces: Pieces) -> Pieces:
        if not self.normal:
            return pieces
        return [unicodedata.normalize(self.normal, text) if place % 2 else text for place, text in enumerate(pieces)]

    def _tokenized(self, rows: Sequence[Pieces]) -> Iterator[Encoded | Refused]:
        given = iter(self.tokens.encode([text for row in rows for text in row[::2]]))
        tokens = self._said([text for row in rows for text in row[1::2]])
        said = zip(tokens, self.tokens.decode(tokens), strict=True)
        for row in rows:
            replies = len(row) // 2
            yield self._joined(row[1::2], [*islice(said, replies)], [*islice(given, replies + 1)])

    def _said(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.anchor:
            return self.tokens.encode(texts)
        [anchor] = self.tokens.encode([self.anchor])
        return [ids[len(anchor) :] for ids in self.tokens.encode([self.anchor + text for text in texts])]

    def _joined(
        self, texts: Sequence[str], said: Sequence[tuple[list[int], str]], given: Sequence[list[int]]
    ) -> Encoded | Refused:
        """`said` are tokens and what they decode to, of each of the texts; `given` the tokens around them."""
        ids = list(given[0])
        labels = [MASKED] * len(ids)
        for text, (tokens, reply), rest in zip(texts, said, given[1:], strict=True):
            # A tokenizer with an anchor drops the space that begins a text when it decodes.
            if reply != text and not (self.anchor and f" {reply}" == text):
                return Refused(reason="reply does not survive the tokenizer")
            ids += tokens
            ids += rest
            labels += tokens
            labels.append(rest[0])  # the end-of-turn token, which the model has to say too
            labels += [MASKED] * (len(rest) - 1)
        return self._encoded(ids, labels, [reply for _, reply in said])

    def _encoded(self, ids: list[int], labels: list[int], replies: list[str]) -> Encoded:
        if self.train == "everything":
            length = len(labels) - next(back for back, label in enumerate(reversed(labels)) if label != MASKED)
            ids, labels = ids[:length], [MASKED, *ids[1:length]]
        return Encoded(input_ids=ids, labels=labels, replies=tuple(replies))
