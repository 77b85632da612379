from __future__ import annotations

import pytest

from chat_kit import CHATML, GEMMA, INST, LLAMA3, TEMPLATES, byte_level, chat, only, sentencepiece, sound, trained_texts
from ftcore.api import RunError
from ftcore_plugins.common.chat import chat_format
from ftcore_plugins.common.chat_template import BUILT_IN


def test_the_row_that_a_template_refuses_is_named() -> None:
    refusing = GEMMA.replace(
        "{% set first =", "{% if 'bad' in messages[0].content %}{{ raise_exception('no') }}{% endif %}{% set first =", 1
    )
    format_ = chat_format(byte_level(refusing))
    rows = [chat("one"), chat("two", "bad"), chat("three")]
    with pytest.raises(RunError, match=r"^b:2: the chat template refuses the row: no$"):
        list(format_.encode(rows, ["a:1", "b:2", "c:3"]))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['content'] }}{% if add_generation_prompt %}A:{% endif %}", "not the beginning"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "does not write the reply"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}", "no special token"),
        (CHATML.replace("<|im_start|>assistant", "<|im_start|>assistant<think>"), "not the beginning"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "took over"),
        ("{{ messages | nonsense }}", "refuses"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_trained_is_refused(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftcore_plugins.common.chat_template.TIME_LIMIT", 0.3)
    with pytest.raises(RunError, match=reason):
        chat_format(byte_level(template))


def test_marks_tell_where_a_reply_begins_if_the_template_makes_no_prompt() -> None:
    prompt = TEMPLATES["marked"].partition("{% if add_generation_prompt %}")[2]
    tokenizer = byte_level(TEMPLATES["marked"].removesuffix("{% if add_generation_prompt %}" + prompt))
    encoded = sound(chat_format(tokenizer), chat("yes"))
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == ["yes<|eot_id|>"]


def test_two_marks_around_one_reply_are_left_aside() -> None:
    twice = CHATML.replace("{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
        "{{ '<|im_start|>' + message['role'] + '\n' }}{% generation %}{{ message['content'] }}{% endgeneration %}"
        "{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}")  # fmt: skip
    tokenizer = byte_level(twice)
    assert tokenizer.apply_chat_template(chat("yes"), tokenize=False).endswith("assistant\nyes<|im_end|>\n")
    encoded = sound(chat_format(tokenizer), chat("yes"))
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == ["yes<|im_end|>"]


def test_marks_that_miss_a_reply_of_a_row_name_it() -> None:
    once = TEMPLATES["marked"].replace("message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.last")
    with pytest.raises(RunError, match=r"^rows\.jsonl:1: the chat template marks 1 replies of 2"):
        only(chat_format(byte_level(once)), [*chat("one"), *chat("two")])


def test_a_tokenizer_that_splits_special_tokens_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.split_special_tokens = True
    with pytest.raises(RunError, match="splits the token that ends a reply"):
        chat_format(tokenizer)


def test_a_template_that_changes_one_reply_names_its_row() -> None:
    format_ = chat_format(byte_level(CHATML.replace("message['content']", "message['content'] | replace('a', 'b')")))
    with pytest.raises(RunError, match=r"^rows\.jsonl:1: the chat template changes the reply 'cat'"):
        only(format_, chat("cat"))


def test_no_template_is_an_error_that_names_the_model_and_the_built_in_ones() -> None:
    with pytest.raises(RunError, match=r"no chat template.*llama3"):
        chat_format(byte_level(None))


def test_the_built_in_template_is_the_llama_3_format() -> None:
    messages = [*chat("fine ", " how are you?", "be brief"), *chat("bye", "see you")]
    ours, theirs = byte_level(BUILT_IN["llama3"]), byte_level(LLAMA3)
    for prompt in (True, False):
        rendered = [
            t.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt) for t in (ours, theirs)
        ]
        assert rendered[0] == rendered[1]
    assert sound(chat_format(byte_level(None), "llama3"), messages).replies == ("fine", "bye")


def test_the_built_in_template_needs_its_tokens() -> None:
    with pytest.raises(RunError, match=r"llama3 needs <\|start_header_id\|>, <\|end_header_id\|>, <\|eot_id\|>"):
        chat_format(sentencepiece(INST), "llama3")
    with pytest.raises(RunError, match="no built-in chat template 'lama3'; there is llama3"):
        chat_format(byte_level(), "lama3")


def test_todays_date_is_not_trained() -> None:
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    dated = today + "{{ date_string }}"
    tokenizer = byte_level(dated + CHATML)
    assert tokenizer.decode(sound(chat_format(tokenizer), chat("yes")).input_ids).startswith("26 Jul 2024<")
