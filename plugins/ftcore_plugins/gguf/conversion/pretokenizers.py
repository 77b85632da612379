"""How llama.cpp calls the ways in which byte-level tokenizers take text apart before they merge.

A way is found by the regular expressions in `tokenizer.json`, never by what the tokenizer makes of some text: that
depends on the vocabulary too, and a vocabulary of one's own is no reason to be refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftcore.api import RunError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")
DIGITS = r"\p{N}"

Way = tuple[str, ...]
"""Regular expressions, one after the other."""

LLAMA3: Way = (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{SIGNS}|{REST}",)
QWEN2: Way = (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{SIGNS}|{REST}",)
QWEN35: Way = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{REST}",
)
TEKKEN: Way = (rf"{CASED[0]}|{CASED[1]}|\p{{N}}|{PATHS}|{REST}",)
GPT4O: Way = (rf"{CASED[0]}{CONTRACTIONS}?|{CASED[1]}{CONTRACTIONS}?|\p{{N}}{{1,3}}|{PATHS}|{REST}",)
DEEPSEEK_CODER: Way = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGITS)

# The second name is that of the way whose tokenizers take a word that is a token as it is, without merging.
NAMES: Mapping[Way, tuple[str, str]] = {
    (GPT2,): ("gpt-2", ""),
    (DIGITS, GPT2): ("smollm", ""),
    LLAMA3: ("smaug-bpe", "llama-bpe"),
    QWEN2: ("qwen2", ""),
    QWEN35: ("qwen35", ""),
    TEKKEN: ("", "tekken"),
    GPT4O: ("gpt-4o", ""),
    DEEPSEEK_CODER: ("deepseek-coder", ""),
}

NORMALIZERS = ("NFC",)
"""What llama.cpp leaves out, and what leaves text as most people write it as it is."""


def pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """The name for the contents of a `tokenizer.json`. Raises `RunError` when there is none."""
    unknown = [kind for kind in _normalizers(tokenizer.get("normalizer")) if kind not in NORMALIZERS]
    if unknown:
        raise RunError(f"gguf: tokenizer.json has the normalizer {unknown[0]}, which llama.cpp does not have")
    way = tuple(_way(_steps(tokenizer.get("pre_tokenizer"))))
    if way not in NAMES:
        shown = " and then ".join(way) or "nothing that splits text"
        raise RunError(f"gguf: tokenizer.json takes text apart by {shown}, for which llama.cpp has no name")
    merging, whole = NAMES[way]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    # Where only the other one has a name, it differs in words that are tokens but no merge leads to.
    return (whole or merging) if ignore_merges else (merging or whole)


def _normalizers(normalizer: Mapping[str, Any] | None) -> Iterator[str]:
    if normalizer is None:
        return
    if normalizer["type"] == "Sequence":
        for inner in normalizer["normalizers"]:
            yield from _normalizers(inner)
    else:
        yield str(normalizer["type"])


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return ()
    if pre_tokenizer["type"] == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]
    return [pre_tokenizer]


def _way(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        match step:
            case {"type": "ByteLevel", "add_prefix_space": True}:
                yield "a space before the text"
            case {"type": "ByteLevel"}:
                yield from [GPT2] if step.get("use_regex", True) else []
            case {"type": "Digits", "individual_digits": True}:
                yield DIGITS
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                yield str(pattern)
            case _:
                yield str(step["type"])
