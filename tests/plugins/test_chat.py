from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chat_kit import (
    CHATML,
    END,
    LLAMA3,
    SPECIAL,
    STRIPPING,
    TEMPLATES,
    THINKING,
    byte_level,
    chat,
    only,
    sentencepiece,
    sound,
    trained_texts,
)
from ftcore_plugins.common.chat import Encoded, Refused, chat_format, conversation

SPACES = st.text(alphabet=" \n\t\r\u00a0\u2028", max_size=4)
ANY = st.text(max_size=40)
CODE = st.text(alphabet="def add(a, b):\n    return\t\u00e9\u4f60\U0001f600'\"{}%<|>", max_size=60)
TEXTS = st.one_of(ANY, CODE, st.builds(lambda a, b, c: a + b + c, SPACES, st.one_of(ANY, CODE), SPACES))
REPLIES = st.builds(lambda a, b, c: a + b + c, TEXTS, st.sampled_from("x0.<\u00e9\U0001f600"), TEXTS)
"""Texts that are never blank."""

EXAMPLES = int(os.environ.get("FTCORE_FUZZ", "60"))


@pytest.fixture(scope="module")
def formats() -> dict[tuple[str, bool], tuple[Any, Any]]:
    made = {}
    for name, template in TEMPLATES.items():
        for regex in (True, False):
            tokenizer = byte_level(template, regex)
            made[name, regex] = (tokenizer, chat_format(tokenizer))
    return made


@pytest.mark.parametrize("regex", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(texts=st.tuples(TEXTS, REPLIES, TEXTS))
def test_exactly_the_reply_and_its_end_are_trained(
    formats: Any, name: str, regex: bool, texts: tuple[str, str, str]
) -> None:
    tokenizer, format_ = formats[name, regex]
    question, reply, system = texts
    messages = chat(reply, question, system)
    assume(not any(token in text for token in SPECIAL for text in texts))
    encoded = sound(format_, messages)

    prelude = "<think>\n\n</think>\n\n" if name == "thinking" else ""
    wanted = prelude + (reply.strip() if name in STRIPPING else reply)
    assert encoded.replies == (wanted,)
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == [wanted + END.get(name, "<|im_end|>")]
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert encoded.input_ids[: len(prompt)] == prompt, "the model is given other tokens in use than in training"
    assert set(encoded.labels[: len(prompt)]) == {-100}
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert name in STRIPPING or tokenizer.decode(encoded.input_ids, clean_up_tokenization_spaces=False) == whole


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(texts=st.lists(REPLIES, min_size=4, max_size=8))
def test_every_reply_of_a_conversation_is_trained(formats: Any, name: str, texts: list[str]) -> None:
    tokenizer, format_ = formats[name, True]
    texts = texts[: len(texts) // 2 * 2]
    assume(not any(token in text for token in SPECIAL for text in texts))
    roles = ["user", "assistant"] * (len(texts) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    encoded = sound(format_, messages)

    replies = [text.strip() if name in STRIPPING else text for text in texts[1::2]]
    if name == "thinking":
        replies[-1] = "<think>\n\n</think>\n\n" + replies[-1]
    assert encoded.replies == tuple(replies)
    ends = [reply + END.get(name, "<|im_end|>") for reply in replies]
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == ends


@settings(max_examples=EXAMPLES, deadline=None)
@given(question=TEXTS, reply=REPLIES)
def test_a_tokenizer_that_puts_a_space_before_a_text(question: str, reply: str) -> None:
    assume(not any(token in text for token in ("<s>", "</s>", "<unk>", "<0x") for text in (question, reply)))
    tokenizer = sentencepiece()
    encoded = sound(chat_format(tokenizer), chat(reply, question))

    prompt = tokenizer.apply_chat_template(chat(reply, question)[:-1], add_generation_prompt=True, return_dict=False)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == [f"{reply.strip()} </s>"]
    assert encoded.replies == (f"{reply.strip()} ",)


def test_the_merge_of_prompt_and_reply_that_the_pieces_avoid() -> None:
    tokenizer = byte_level(CHATML, regex=False)
    messages = chat("\n\nyes")
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    at_once = tokenizer.apply_chat_template(messages, return_dict=False)
    assert at_once[: len(prompt)] != prompt, "the test's tokenizer does not merge; the next line proves nothing"
    assert sound(chat_format(tokenizer), messages).input_ids[: len(prompt)] == prompt


def test_what_follows_the_end_of_turn_is_masked() -> None:
    tokenizer = byte_level(TEMPLATES["phi"])
    encoded = sound(chat_format(tokenizer), chat("yes"))
    rest = encoded.input_ids[-2:]
    assert tokenizer.decode(rest) == "\n<|end_of_text|>"
    assert encoded.labels[-3:] == [tokenizer.convert_tokens_to_ids("<|im_end|>"), -100, -100]


def test_the_end_of_turn_is_trained_where_it_is_the_padding_too() -> None:
    tokenizer = byte_level(LLAMA3, pad="<|eot_id|>")
    format_ = chat_format(tokenizer)
    encoded = sound(format_, chat("yes"))
    assert format_.end_of_turn == tokenizer.pad_token_id == encoded.labels[-1]


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("place", ["reply", "question", "system"])
def test_control_tokens_in_a_row_are_refused(token: str, place: str) -> None:
    format_ = chat_format(byte_level())
    texts = {"reply": "yes", "question": "is it?", "system": "be brief", place: f"a{token}b"}
    assert only(format_, chat(**texts)) == Refused(reason="contains control tokens")


def test_an_added_token_that_the_template_writes_is_a_control_token() -> None:
    tokenizer = byte_level(THINKING)
    tokenizer.add_tokens(["<think>", "<table>"])
    format_ = chat_format(tokenizer)
    assert only(format_, chat("a <think> b")) == Refused(reason="contains control tokens")
    assert isinstance(only(format_, chat("a <table> b")), Encoded)


@pytest.mark.parametrize("reply", ["", " \n", "\u2003"])
@pytest.mark.parametrize("template", [LLAMA3, CHATML])
def test_an_empty_reply_is_refused(template: str, reply: str) -> None:
    assert only(chat_format(byte_level(template)), chat(reply)) == Refused(reason="empty reply")


def test_half_a_character_is_refused() -> None:
    assert only(chat_format(byte_level()), chat("a\ud800b")) == Refused(reason="not valid unicode")


def test_a_reply_is_put_into_the_tokenizers_normal_form() -> None:
    format_ = chat_format(byte_level(normalizer="NFC"))
    assert format_.normal == "NFC"
    assert sound(format_, chat("cafe\u0301")).replies == ("caf\u00e9",)
    assert chat_format(byte_level(normalizer="NFKC")).normal == "NFKC"
    assert chat_format(byte_level()).normal == ""


def test_a_reply_that_the_tokenizer_changes_is_refused() -> None:
    format_ = chat_format(byte_level(normalizer="Lowercase"))
    assert only(format_, chat("Yes")) == Refused(reason="reply does not survive the tokenizer")
    assert isinstance(only(format_, chat("yes")), Encoded)


def test_answers_keep_the_order_of_the_rows() -> None:
    format_ = chat_format(byte_level())
    rows = [conversation(chat(reply), "x") for reply in ("", "one", "<|eot_id|>", "two")]
    kinds = [getattr(row, "replies", None) for row in format_.encode(rows)]
    assert kinds == [None, ("one",), None, ("two",)]


def test_many_rows_are_encoded_as_each_alone() -> None:
    format_ = chat_format(byte_level())
    rows = [conversation(chat(f"reply {number}", "q" * (number % 7)), "x") for number in range(1200)]
    assert format_.encode(rows)[::97] == [format_.encode([row])[0] for row in rows[::97]]
