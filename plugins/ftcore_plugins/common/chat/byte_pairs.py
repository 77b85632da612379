"""tiktoken in the place of tokenizers where both give the same tokens: it takes a fifth of the time.

Both merge pairs of tokens, byte by byte at first: tokenizers those of a list, in its order; tiktoken any that make a
token, the token with the lowest number first. That comes to the same if the list makes tokens in the order of their
numbers, and each token, read alone, becomes itself. For two neighbours that make a token have come about as they do
where that token is read alone, since nothing has been merged across their borders: so they are the two that become it
there, and are in the list. Both cut a text into words by one regular expression, but by engines with other Unicode
tables: a text goes to tiktoken only if all of its characters have been what they are since Unicode 3.2.
https://github.com/openai/tiktoken, https://huggingface.co/docs/tokenizers/components
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, pairwise
from typing import Any

__all__ = ["LONGEST", "encoding_of", "reads_alike"]

LONGEST = 100_000
"""Characters of the longest text that goes to tiktoken: it takes the square of the length of an endless word."""

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How `ByteLevel` cuts a text by itself: https://docs.rs/tokenizers/latest/tokenizers/pre_tokenizers/byte_level."""

SAME_SYNTAX = re.compile(
    r"(?!.*(?:[*+?]|\d\})\+)"  # such a plus makes a quantifier possessive for one of them
    r"(?:\\[sSrnt]|\\p\{[A-Z][a-z]?\}|\(\?(?:i:|:|!)|\[\^|[\[\]()|?*+]|\{\d+(?:,\d*)?\}|[^\\^$.{}&])*"
)
"""Regular expressions that both engines understand, and in one way: what tokenizers have in use, and no more."""

BARE_MODEL: Mapping[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
}
"""What a model of byte pairs must be; empty texts are as good as none."""


def encoding_of(backend: Any) -> Any:
    """The `tiktoken.Encoding` that reads as this `tokenizers.Tokenizer`; None if there is none, or no tiktoken."""
    try:
        import tiktoken
    except ImportError:
        return None
    source = json.loads(backend.to_str())
    added = {str(token["content"]): int(token["id"]) for token in source["added_tokens"]}
    words = _words_of(source["pre_tokenizer"])
    if words is None or not _is_plain(source, added):
        return None
    ranks = _ranks_of(source["model"], added)  # takes seconds
    if ranks is None:
        return None
    return tiktoken.Encoding("ftcore", pat_str=words, mergeable_ranks=ranks, special_tokens=added)


def reads_alike(text: str, *, composed: bool) -> bool:
    """Whether both engines cut the text alike; `composed` says that the tokenizer normalizes to NFC."""
    if len(text) > LONGEST:
        return False
    if text.isascii():
        return True
    return all(map(_is_stable, set(text))) and (not composed or unicodedata.is_normalized("NFC", text))


@cache
def _is_stable(char: str) -> bool:
    """Not a letter that is another form of an English one either: expressions may ignore the case."""
    category = unicodedata.category(char)
    english = not char.isascii() and char.casefold().isascii() and len(char.casefold()) == 1
    return category == unicodedata.ucd_3_2_0.category(char) and category not in ("Cn", "Cs") and not english


def _is_plain(source: Mapping[str, Any], added: Mapping[str, int]) -> bool:
    """No normal form but NFC, and added tokens that are found wherever they stand, and in one way."""
    tokens, normalizer = source["added_tokens"], source["normalizer"]
    if normalizer and normalizer["type"] != "NFC":
        return False
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in tokens):
        return False
    found_in_normalized = {token["normalized"] for token in tokens}
    if len(found_in_normalized) > 1 or (normalizer and True in found_in_normalized):
        return False
    return not any(second.startswith(first) for first, second in pairwise(sorted(added)))


def _words_of(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """The one regular expression that cuts a text into words before its bytes are looked at."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(words)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if SAME_SYNTAX.fullmatch(words):
            return words
    return None


def _ranks_of(model: Mapping[str, Any], added: Mapping[str, int]) -> dict[bytes, int] | None:
    """The number of each token by its bytes; None unless merging by number is merging by list."""
    if any((model.get(name) or None) != (wanted or None) for name, wanted in BARE_MODEL.items()):
        return None
    letters = _letters()
    merges = [(first, second) for first, second in model["merges"]]
    made = {first + second for first, second in merges}
    vocabulary = {
        token: number
        for token, number in model["vocab"].items()
        if token not in added and (token in made or len(token) == 1 or model.get("ignore_merges"))
    }
    if not letters.keys() <= vocabulary.keys() or not letters.keys() >= set(chain.from_iterable(vocabulary)):
        return None
    if not _in_order(merges, vocabulary) or not _become_themselves(vocabulary, merges):
        return None
    return {bytes(map(letters.__getitem__, token)): number for token, number in vocabulary.items()}


def _in_order(merges: Sequence[tuple[str, str]], vocabulary: Mapping[str, int]) -> bool:
    numbers = [vocabulary.get(first + second, -1) for first, second in merges]
    return -1 not in numbers and all(number <= later for number, later in pairwise(numbers))


def _become_themselves(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> bool:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    bare = Tokenizer(BPE(dict(vocabulary), list(merges)))
    encoded = bare.encode_batch_fast(list(vocabulary))
    return all(each.ids == [number] for each, number in zip(encoded, vocabulary.values(), strict=True))


def _letters() -> dict[str, int]:
    """The character that stands for each byte in a vocabulary of byte pairs: a printable one for every byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }
