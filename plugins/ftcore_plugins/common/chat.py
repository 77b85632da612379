"""Tokenize conversations, and label exactly what the model has to say: each reply and its end-of-turn token.

A rendered conversation is cut into pieces of text, in turn what the model is given and what it says. The
pieces are tokenized one by one, as they are in use. A tokenizer that sees the whole text may merge the end
of a prompt with the beginning of its reply into one token, which the model never meets when it answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import attrs

from ftcore.api import MASKED, RunError
from ftcore_plugins.common.chat_template import ChatTemplate, Conversation, Message, chat_template, token_ids

__all__ = ["ChatFormat", "Encoded", "Refused", "chat_format"]

CHUNK = 512
"""Conversations that are rendered and tokenized at once: bounds the memory that their text takes."""

PROBE = "ftcoreprobe"
"""A reply to try a template with: letters that no template writes by itself."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can spell, but UTF-8 and tokenizers cannot."""


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
class _Piece:
    """Text that the model is given, beginning with the end-of-turn token if a reply is before it, or that it says."""

    text: str
    said: bool


@attrs.frozen(kw_only=True)
class ChatFormat:
    """A tokenizer with its chat template, tried out. Made by `chat_format`.

    `end_of_turn` is the token that ends a reply. `prelude` is what the template has a model say before the
    reply proper (the empty thoughts of Qwen 3): it is trained and is part of `Encoded.replies`. `strips` and
    `normal` say what template and tokenizer would change in a reply; it is changed so beforehand. `anchor`
    goes before a text that must not be tokenized as the beginning of a document.
    """

    tokenizer: Any
    template: ChatTemplate
    control: re.Pattern[str]
    end_of_turn: int = -1
    prelude: str = ""
    strips: bool = False
    normal: Literal["", "NFC", "NFKC"] = ""
    anchor: str = ""

    def encode(self, conversations: Sequence[Conversation], origins: Sequence[str]) -> Iterator[Encoded | Refused]:
        """Tokenize conversations: one answer each, in order. `origins` name them in errors.

        Raises `RunError` when messages are no conversation that ends with a reply, or when the template
        refuses them or does not render a reply as it is.
        """
        for start in range(0, len(conversations), CHUNK):
            yield from self._encode_chunk(conversations[start : start + CHUNK], origins[start : start + CHUNK])

    def _encode_chunk(
        self, conversations: Sequence[Conversation], origins: Sequence[str]
    ) -> Iterator[Encoded | Refused]:
        for messages, origin in zip(conversations, origins, strict=True):
            require_conversation(messages, origin)
        ready = [[self._prepared(message) for message in messages] for messages in conversations]
        refusals = [self._refusal(messages) for messages in ready]
        kept = [row for row, refusal in enumerate(refusals) if not refusal]
        encoded = iter(self._encode_sound([ready[row] for row in kept], [origins[row] for row in kept]))
        for refusal in refusals:
            yield Refused(reason=refusal) if refusal else next(encoded)

    def _prepared(self, message: Message) -> dict[str, str]:
        content = message["content"]
        if message["role"] == "assistant":
            content = unicodedata.normalize(self.normal, content) if self.normal else content
            content = content.strip() if self.strips else content
        return {"role": message["role"], "content": content}

    def _refusal(self, messages: Conversation) -> str:
        for message in messages:
            if LONE_SURROGATE.search(message["content"]):
                return "not valid unicode"
            if self.control.search(message["content"]):
                return "contains control tokens"
            if message["role"] == "assistant" and not message["content"].strip():
                return "empty reply"
        return ""

    def _encode_sound(self, conversations: Sequence[Conversation], origins: Sequence[str]) -> list[Encoded | Refused]:
        rendered = self.template.replies(conversations, origins)
        rows = [
            list(self._pieces(text, starts, messages, origin))
            for (text, starts), messages, origin in zip(rendered, conversations, origins, strict=True)
        ]
        tokens = iter(self._tokens([piece for row in rows for piece in row]))
        return [self._joined([(piece, next(tokens)) for piece in row]) for row in rows]

    def _pieces(self, text: str, starts: Sequence[int], messages: Conversation, origin: str) -> Iterator[_Piece]:
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        done = 0
        for start, reply in zip(starts, replies, strict=True):
            heads = (self.prelude, "")  # many templates leave the prelude out of all but the last reply
            head = next((head for head in heads if text.startswith(head + reply, start)), None)
            if head is None:
                raise RunError(
                    f"{origin}: the chat template changes the reply {reply[:60]!r}; mend the row or leave it out"
                )
            stop = self.control.search(text, start + len(head + reply))
            if stop is None:
                raise RunError(
                    f"{origin}: the chat template ends the reply with no special token; use another template"
                )
            yield _Piece(text=text[done:start], said=False)
            yield _Piece(text=text[start : stop.start()], said=True)
            done = stop.start()
        yield _Piece(text=text[done:], said=False)

    def _tokens(self, pieces: Sequence[_Piece]) -> list[list[int]]:
        anchor = len(token_ids(self.tokenizer, [self.anchor])[0]) if self.anchor else 0
        texts = [self.anchor + piece.text if piece.said else piece.text for piece in pieces]
        encoded = token_ids(self.tokenizer, texts)
        return [ids[anchor:] if piece.said else ids for piece, ids in zip(pieces, encoded, strict=True)]

    def _joined(self, row: Iterable[tuple[_Piece, list[int]]]) -> Encoded | Refused:
        ids: list[int] = []
        labels: list[int] = []
        replies: list[str] = []
        for piece, tokens in row:
            ends = 1 if replies and not piece.said else 0  # the end-of-turn token, which the model has to say too
            ids += tokens
            labels += tokens if piece.said else [*tokens[:ends], *[MASKED] * (len(tokens) - ends)]
            if piece.said:
                reply = self._decoded(tokens)
                # A tokenizer with an anchor drops the space that begins a text when it decodes.
                if reply != piece.text and not (self.anchor and f" {reply}" == piece.text):
                    return Refused(reason="reply does not survive the tokenizer")
                replies.append(reply)
        return Encoded(input_ids=ids, labels=labels, replies=tuple(replies))

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def chat_format(tokenizer: Any, template: str = "") -> ChatFormat:
    """Try out a tokenizer with its own chat template, or with the built-in one called `template`.

    Raises `RunError` if there is no template, its tokens are not in the vocabulary, it does not render a
    reply as it is, or nothing ends the reply.
    """
    chat = chat_template(tokenizer, template)
    plain = ChatFormat(
        tokenizer=tokenizer,
        template=chat,
        control=_control_tokens(tokenizer, chat.source),
        normal=_normal_form(tokenizer),
        anchor=_anchor(tokenizer),
    )
    padded = f"\n {PROBE} \n"
    (text, _), (plain_text, starts) = chat.replies([_probe(padded), _probe(PROBE)], ["chat template"] * 2)
    found = plain_text.find(PROBE, starts[0])
    if found < 0:
        raise RunError("chat template: it does not write the reply that it is given; use another template")
    ready = attrs.evolve(plain, strips=padded not in text, prelude=plain_text[starts[0] : found])
    return attrs.evolve(ready, end_of_turn=_end_of_turn(ready))


def require_conversation(messages: Conversation, origin: str) -> None:
    """Raise `RunError` unless user and assistant take turns, after an optional system message, up to a reply."""
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise RunError(
            f"{origin}: messages must be an optional system message and then user and assistant in turn, not {roles}"
        )
    for number, message in enumerate(messages, start=1):
        if not isinstance(message.get("content"), str):
            raise RunError(f"{origin}: message {number} ({message['role']}) must have a text as its content")


def _probe(reply: str) -> Conversation:
    return [{"role": "user", "content": "question"}, {"role": "assistant", "content": reply}]


def _end_of_turn(ready: ChatFormat) -> int:
    encoded = next(ready.encode([_probe(PROBE)], ["chat template"]))
    if isinstance(encoded, Refused):
        raise RunError(f"chat template: it cannot be trained with this tokenizer: {encoded.reason}")
    last = max(place for place, label in enumerate(encoded.labels) if label != MASKED)
    token = encoded.input_ids[last]
    if token not in ready.tokenizer.added_tokens_decoder:
        raise RunError("chat template: the tokenizer splits the token that ends a reply; add it as a special token")
    return token


def _control_tokens(tokenizer: Any, source: str) -> re.Pattern[str]:
    """Matches any token that no row may spell: the special ones, and added ones that the template writes."""
    added = tokenizer.added_tokens_decoder.values()
    named = {token.content for token in added if token.special or (token.content in source and token.content.strip())}
    tokens = sorted(named | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")


def _normal_form(tokenizer: Any) -> Literal["", "NFC", "NFKC"]:
    """The Unicode normal form that the tokenizer puts text into."""
    composed, accented, letters, ligature = token_ids(tokenizer, ["\u00e9", "e\u0301", "fi", "\ufb01"])
    if composed != accented:
        return ""
    return "NFKC" if letters == ligature else "NFC"


def _anchor(tokenizer: Any) -> str:
    """A character to put before a reply, if the tokenizer begins each text with a space (SentencePiece's dummy prefix).

    It must keep its own tokens whatever follows, so that they can be taken off again.
    """
    line, both, letter = token_ids(tokenizer, ["\n", "\na", "a"])
    if both == line + letter:
        return ""
    for anchor in ("\n", "\x01"):
        alone, *followed = token_ids(tokenizer, [anchor, *(anchor + text for text in ("a", " a", "\n", "  a"))])
        if all(ids[: len(alone)] == alone for ids in followed):
            return anchor
    return ""
