"""tiktoken in the place of tokenizers: the same tokens for every text that it is given, or none of it."""

from __future__ import annotations

import json
import pickle
import random
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import chat_kit
from ftcore_plugins.common.chat import tokens as tokens_module
from ftcore_plugins.common.chat.byte_pairs import LONGEST, encoding_of, reads_alike
from ftcore_plugins.common.chat.tokens import FastTokens, QuickTokens, SplitTokens, control_tokens, tokens_of

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GPT4O_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
AROUND = ("a{}b", "A{}a", "1{}2", " {} ", "\n{}\n", "'{}", "\t{}!", "!{}?", " {}a", "{}  x", "a'{}L", "a {}1")
"""Surroundings in which the kind of a character decides where a word ends."""


def backend(words: str = "", normalizer: str = "") -> Any:
    """A tokenizer that cuts a text into words by a regular expression, or as GPT-2's does."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    made = Tokenizer.from_str(chat_kit.backend(normalizer=normalizer).to_str())
    if words:
        split = pre_tokenizers.Split(Regex(words), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    return made


def changed(change: Callable[[dict[str, Any]], None]) -> Any:
    """The tokenizer with something else in its tokenizer.json."""
    from tokenizers import Tokenizer

    source = json.loads(backend().to_str())
    change(source)
    return Tokenizer.from_str(json.dumps(source))


def read(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    return [each.ids for each in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def characters() -> Iterator[str]:
    """A seventh of all characters that go to tiktoken."""
    for number in range(0x80, 0x110000, 7):
        if reads_alike(chr(number), composed=False):
            yield chr(number)


def strange_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    some = [*characters()]
    parts: list[Callable[[], str]] = [
        lambda: draw.choice(some),
        lambda: chr(draw.randrange(32, 127)),
        lambda: draw.choice(" \n\t\r  '"),
        lambda: draw.choice(["'s", "'LL", "   ", "\r\n", "<|eot_id|>", "<|eot_id", "123", "def ", "assistant"]),
    ]
    return ["".join(draw.choice(parts)() for _ in range(draw.randint(1, 60))) for _ in range(count)]


@pytest.mark.parametrize("words", ["", LLAMA3_WORDS, GPT4O_WORDS], ids=["gpt2", "llama3", "gpt4o"])
@pytest.mark.parametrize("normalizer", ["", "NFC"])
def test_every_text_that_is_read_by_both_has_the_same_tokens(words: str, normalizer: str) -> None:
    slow = backend(words, normalizer)
    quick = encoding_of(slow)
    made = strange_texts(3000, seed=3)
    texts = [text for text in made if reads_alike(text, composed=bool(normalizer))]
    assert len(texts) > len(made) * (0.5 if normalizer else 0.9)
    assert [quick.encode(text, allowed_special="all") for text in texts] == read(slow, texts)


def test_characters_end_words_alike_wherever_they_stand() -> None:
    slow = backend(GPT4O_WORDS)
    quick = encoding_of(slow)
    some = [*characters()]
    assert len(some) > 30_000 // 7 * 3
    rows = [
        "".join(around.format(char) for char in some[at : at + 200])
        for at in range(0, len(some), 200)
        for around in AROUND
    ]
    assert [quick.encode(row, allowed_special="all") for row in rows] == read(slow, rows)


def test_long_texts_and_endless_words_have_the_same_tokens() -> None:
    slow = backend(LLAMA3_WORDS)
    quick = encoding_of(slow)
    draw = random.Random(0)
    texts = [letter * 20_000 for letter in " a1\n=\t'"] + ["".join(draw.choices("abcd", k=20_000)), " " * 9999 + "x"]
    assert [quick.encode(text, allowed_special="all") for text in texts] == read(slow, texts)


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("plain text, 123\r\n\t'", True),
        ("na\u00efve \u4f60\u597d \u0416", True),
        ("\U0001f9ff", False),  # younger than Unicode 3.2
        ("\u200b", False),  # was a space in Unicode 3.2
        ("it'\u017f", False),  # a letter that is an s if the case is ignored
        ("\ud800", False),
        ("a" * (LONGEST + 1), False),
    ],
)
def test_texts_that_two_engines_may_cut_differently_stay_where_they_are(text: str, alike: bool) -> None:
    assert reads_alike(text, composed=False) is alike


def test_a_text_that_has_to_be_normalized_stays_where_it_is() -> None:
    assert reads_alike("e\u0301", composed=False)
    assert not reads_alike("e\u0301", composed=True)
    assert reads_alike(unicodedata.normalize("NFC", "e\u0301"), composed=True)


def _added(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda source: source["added_tokens"][4].update(values)


def _model(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda source: source["model"].update(values)


def _swapped(source: dict[str, Any]) -> None:
    """Two tokens change numbers, so that the list no longer makes them in order."""
    merges, vocabulary = source["model"]["merges"], source["model"]["vocab"]
    first, second = ("".join(merges[place]) for place in (20, 90))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def _unmade(source: dict[str, Any]) -> None:
    """A token that no merge makes is read only as a word of its own."""
    source["model"].update(ignore_merges=True)
    source["model"]["vocab"]["xyzzy"] = len(source["model"]["vocab"])


def _never_itself(source: dict[str, Any]) -> None:
    """A token whose pair is always broken up by an earlier merge: `ab` goes before `a` can meet `bc`."""
    model = source["model"]
    for pair in (("b", "c"), ("a", "b"), ("q", "bc")):
        model["vocab"].setdefault("".join(pair), len(model["vocab"]))
    model["merges"] = [["q", "b"], ["b", "c"], ["q", "bc"]]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if len(token) == 1 or token[0] == "<"}
    for token in ("qb", "bc", "qbc"):
        model["vocab"][token] = max(model["vocab"].values()) + 1


@pytest.mark.parametrize(
    "change",
    [
        _model(dropout=0.1),
        _model(byte_fallback=True),
        _model(end_of_word_suffix="</w>"),
        _added(lstrip=True),
        _added(rstrip=True),
        _added(single_word=True),
        _added(normalized=True),
        _added(content="<|eot_id|>", normalized=False, id=4, special=True, lstrip=True),
        lambda source: source["added_tokens"][4].update(content=source["added_tokens"][3]["content"] + "x"),
        lambda source: source.update(normalizer={"type": "NFKC"}),
        lambda source: source["pre_tokenizer"].update(add_prefix_space=True),
        lambda source: source.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
        _swapped,
        _unmade,
        _never_itself,
    ],
)
def test_other_tokenizers_are_left_alone(change: Callable[[dict[str, Any]], None]) -> None:
    assert encoding_of(changed(lambda source: None)) is not None
    assert encoding_of(changed(change)) is None


@pytest.mark.parametrize("words", [r"\w+|\W+", r"^a|.+", r"\p{L}++|\s+", r"[a&&b]+|.", r"\p{Latin}+"])
def test_expressions_that_two_engines_may_understand_differently_are_left_alone(words: str) -> None:
    assert encoding_of(backend(words)) is None


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> QuickTokens:
    """Looks for a faster way at its eighth text."""
    monkeypatch.setattr(tokens_module, "LATER", 8)
    return QuickTokens(inner=FastTokens(backend=backend()), composed=False)


def test_formats_use_it_but_for_tokenizers_that_split_their_special_tokens() -> None:
    tokenizer = chat_kit.byte_level()
    found = tokens_of(tokenizer, control_tokens(tokenizer))
    assert isinstance(found, SplitTokens)
    assert isinstance(found.inner, QuickTokens)
    tokenizer.split_special_tokens = True
    assert isinstance(tokens_of(tokenizer, control_tokens(tokenizer)), FastTokens)


def test_it_is_used_after_some_texts_and_for_texts_of_both_kinds(
    tokens: QuickTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = pickle.loads(pickle.dumps(tokens))
    texts = ["def add(a, b)", "\U0001f9ff new", "<|eot_id|>\n\n", "caf\u00e9", ""]
    wanted = tokens.encode(texts)
    given: list[list[str]] = []
    slow = tokens.inner.encode
    monkeypatch.setattr(type(tokens.inner), "encode", lambda _, some: given.append(list(some)) or slow(some))
    assert [tokens.encode(texts) for _ in range(3)] == [wanted] * 3
    assert given == [texts, *[[texts[1]]] * 3]  # once more where both are compared


def test_it_is_not_used_if_it_reads_a_text_otherwise(tokens: QuickTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    texts = ["def add(a, b)"] * 5
    wanted = tokens.encode(texts)
    monkeypatch.setattr(tiktoken.Encoding, "encode", lambda *_, **__: [0])
    assert [tokens.encode(texts) for _ in range(3)] == [wanted] * 3


def test_without_tiktoken_all_is_as_before(tokens: QuickTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tokens.encode(["def add(a, b)"])
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert [tokens.encode(["def add(a, b)"] * 9)[0] for _ in range(2)] == wanted * 2
