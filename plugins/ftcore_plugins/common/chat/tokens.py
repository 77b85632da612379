"""Texts to tokens and back, without what a tokenizer's other users need: no padding, no offsets, no masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, Protocol

import attrs

from ftcore_plugins.common.chat.byte_pairs import encoding_of, reads_alike

__all__ = ["Tokens", "anchor_of", "begins_with_bos", "control_tokens", "normal_form", "token_ids", "tokens_of"]

PROBES = ("Hello, world!", " two  spaces\n\nand\ta tab ", "caf\u00e9 \u4f60\u597d \U0001f600", "don't . stop , now")
"""Texts on which a tokenizer and its backend must agree."""


LATER = 20_000
"""Texts after which a faster way is looked for: that takes up to two seconds, and a small set needs none of them."""


class Tokens(Protocol):
    """A tokenizer, as formats use it. It pickles, so that other processes can use it, too."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text as it is: no beginning-of-text token is put before it."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens, special ones included."""

    def source(self) -> str:
        """All that decides about the tokens, as a text to take a fingerprint of; empty if there is no such text."""


@attrs.frozen(kw_only=True)
class FastTokens:
    """The Rust tokenizer inside a fast one: it costs a third of the latter's time, and imports nothing."""

    backend: Any
    split_special: bool = False

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokens`. Other users of the same backend leave padding and truncation switched on."""
        backend = self.backend
        backend.no_truncation()
        backend.no_padding()
        if backend.encode_special_tokens != self.split_special:
            backend.encode_special_tokens = self.split_special
        return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokens`."""
        return list(self.backend.decode_batch(rows, skip_special_tokens=False))

    def source(self) -> str:
        """The `tokenizer.json` of the backend."""
        return str(self.backend.to_str())


@attrs.define(kw_only=True, eq=False)
class QuickTokens:
    """A tokenizer whose texts tiktoken reads from the `LATER`-th on, as far as it is sure to read them alike.

    The texts at hand are then read by both; if any has other tokens, all stays as it was.
    """

    inner: FastTokens
    composed: bool
    _read: int = attrs.field(init=False, default=0)
    _encoding: Any = attrs.field(init=False, default=None)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokens`."""
        before, self._read = self._read, self._read + len(texts)
        if before < LATER <= self._read:
            return self._compared(texts)
        return self._encoded(texts) if self._encoding else self.inner.encode(texts)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokens`."""
        return self.inner.decode(rows)

    def source(self) -> str:
        """See `Tokens`."""
        return self.inner.source()

    def _compared(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self.inner.encode(texts)
        self._encoding = encoding_of(self.inner.backend)
        if self._encoding and self._encoded(texts) != ids:
            self._encoding = None
        return ids

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        alike = [reads_alike(text, composed=self.composed) for text in texts]
        others = iter(self.inner.encode([text for text, quick in zip(texts, alike, strict=True) if not quick]))
        encode = self._encoding.encode
        return [
            encode(text, allowed_special="all") if quick else next(others)
            for text, quick in zip(texts, alike, strict=True)
        ]


@attrs.frozen(kw_only=True)
class SlowTokens:
    """Any tokenizer of transformers."""

    tokenizer: Any

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokens`."""
        return token_ids(self.tokenizer, texts)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokens`."""
        decode = self.tokenizer.decode
        return [str(decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)) for row in rows]

    def source(self) -> str:
        """Unknown: code decides as well."""
        return ""


@attrs.frozen(kw_only=True)
class SplitTokens:
    """A tokenizer that reads what is between control tokens on its own: each text between them is encoded once.

    Headers, and a system prompt that all rows share, cost nothing from the second row on. `control` has one group.
    """

    inner: Tokens
    control: re.Pattern[str]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokens`."""
        split = [self.control.split(text) for text in texts]
        alone = [*dict.fromkeys(chain.from_iterable(split))]
        ids = dict(zip(alone, self.inner.encode(alone), strict=True))
        return [[*chain.from_iterable([ids[part] for part in parts])] for parts in split]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokens`."""
        return self.inner.decode(rows)

    def source(self) -> str:
        """See `Tokens`."""
        return self.inner.source()


def tokens_of(tokenizer: Any, control: re.Pattern[str]) -> Tokens:
    """The fastest way to use a tokenizer of transformers that gives the tokens which it gives itself."""
    plain = _plain(tokenizer)
    added = tokenizer.added_tokens_decoder.values()
    # Such a token takes spaces with it, or is found in normalized text only: its surroundings matter.
    sticky = any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added)
    if sticky or anchor_of(plain) or tokenizer.split_special_tokens:
        return plain
    return SplitTokens(inner=plain, control=re.compile(f"({control.pattern})"))


def _plain(tokenizer: Any) -> Tokens:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    slow = SlowTokens(tokenizer=tokenizer)
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return slow
    fast = FastTokens(backend=backend, split_special=tokenizer.split_special_tokens)
    texts = [*PROBES, "".join(tokenizer.all_special_tokens)]
    ids = slow.encode(texts)
    if fast.encode(texts) != ids or fast.decode(ids) != slow.decode(ids):
        return slow
    return fast if fast.split_special else QuickTokens(inner=fast, composed=backend.normalizer is not None)


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text as it is, by the tokenizer of transformers itself."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning-of-text token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("x")["input_ids"])[:1] == [bos]


def control_tokens(tokenizer: Any, source: str = "") -> re.Pattern[str]:
    """Matches any token that no row may spell: the special ones, and added ones that the template `source` writes."""
    added = tokenizer.added_tokens_decoder.values()
    named = {token.content for token in added if token.special or (token.content in source and token.content.strip())}
    tokens = sorted(named | set(tokenizer.all_special_tokens), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")


def normal_form(tokens: Tokens) -> Literal["", "NFC", "NFKC"]:
    """The Unicode normal form that the tokenizer puts text into."""
    composed, accented, letters, ligature = tokens.encode(["\u00e9", "e\u0301", "fi", "\ufb01"])
    if composed != accented:
        return ""
    return "NFKC" if letters == ligature else "NFC"


def anchor_of(tokens: Tokens) -> str:
    """A character to put before a reply, if the tokenizer begins each text with a space (SentencePiece's dummy prefix).

    It must keep its own tokens whatever follows, so that they can be taken off again.
    """
    line, both, letter = tokens.encode(["\n", "\na", "a"])
    if both == line + letter:
        return ""
    for anchor in ("\n", "\x01"):
        alone, *followed = tokens.encode([anchor, *(anchor + text for text in ("a", " a", "\n", "  a"))])
        if all(ids[: len(alone)] == alone for ids in followed):
            return anchor
    return ""
