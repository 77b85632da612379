from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chat_cases import templates_of_trl
from chat_kit import (
    CHATML,
    GEMMA,
    INST,
    LLAMA3,
    TEMPLATES,
    byte_level,
    chat,
    only,
    sentencepiece,
    sound,
    trained_texts,
    with_tokens,
)
from ftcore.api import RowError, RunError
from ftcore_plugins.common.chat import BUILT_IN, chat_format, conversation


def test_the_row_that_a_template_refuses_is_named() -> None:
    refusing = GEMMA.replace(
        "{% set first =", "{% if 'bad' in messages[0].content %}{{ raise_exception('no') }}{% endif %}{% set first =", 1
    )
    format_ = chat_format(byte_level(refusing))
    rows = [(chat("one"), "a:1"), (chat("two", "bad"), "b:2"), (chat("three"), "c:3")]
    with pytest.raises(RowError, match=r"^b:2: the chat template refuses the row: no$"):
        format_.encode([conversation(messages, origin) for messages, origin in rows])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['content'] }}{% if add_generation_prompt %}A:{% endif %}", "does not write the reply"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "does not write the reply"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}", "no special token"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "took over"),
        ("{{ messages | nonsense }}", "refuses"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_trained_is_refused(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftcore_plugins.common.chat.rendering.TIME_LIMIT", 0.3)
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
    with pytest.raises(RunError, match=r"no chat template.*alpaca, chatml, gemma3, llama3"):
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
    with pytest.raises(RunError, match="no built-in chat template 'lama3'; did you mean 'llama3'"):
        chat_format(byte_level(), "lama3")


@pytest.mark.parametrize("date", ["date_string", "strftime_now('%d %b %Y')"])
def test_todays_date_is_not_trained(date: str) -> None:
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer = byte_level(f"{today}{{{{ {date} }}}}{CHATML}")
    assert tokenizer.decode(sound(chat_format(tokenizer), chat("yes")).input_ids).startswith("26 Jul 2024<")


def test_what_the_built_in_templates_write() -> None:
    messages = [*chat("fine", "how are you?", "be brief"), *chat("bye", "see you")]
    wanted = {
        "chatml": "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhow are you?<|im_end|>\n"
        "<|im_start|>assistant\nfine<|im_end|>\n<|im_start|>user\nsee you<|im_end|>\n"
        "<|im_start|>assistant\nbye<|im_end|>\n",
        "gemma3": "<bos><start_of_turn>user\nbe brief\n\nhow are you?<end_of_turn>\n"
        "<start_of_turn>model\nfine<end_of_turn>\n"
        "<start_of_turn>user\nsee you<end_of_turn>\n<start_of_turn>model\nbye<end_of_turn>\n",
        "mistral": "<bos>[INST] be brief\n\nhow are you?[/INST] fine<eos>[INST] see you[/INST] bye<eos>",
        "alpaca": "be brief\n\n### Instruction:\nhow are you?\n\n### Response:\nfine<eos>"
        "\n\n### Instruction:\nsee you\n\n### Response:\nbye<eos>",
        "raw": "be briefhow are you?fine<eos>see youbye<eos>",
    }
    for name, text in wanted.items():
        tokenizer = with_tokens("[INST][/INST]<|im_start|><|im_end|><start_of_turn><end_of_turn>")
        encoded = sound(chat_format(tokenizer, name), messages)
        assert tokenizer.decode(encoded.input_ids) == text
        end = {"chatml": "<|im_end|>", "gemma3": "<end_of_turn>"}.get(name, "<eos>")
        spaces = " " if name == "mistral" else ""
        assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == [
            f"{spaces}fine{end}",
            f"{spaces}bye{end}",
        ]


def test_a_built_in_template_begins_a_text_as_the_tokenizer_does() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_tokens("<|im_start|><|im_end|>")
    assert not chat_format(tokenizer, "chatml").source.startswith("{{ bos_token }}")
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    for name in ("alpaca", "chatml", "raw"):
        assert sound(chat_format(tokenizer, name), chat("yes")).input_ids[0] == tokenizer.bos_token_id


def test_a_built_in_template_needs_a_token_for_the_end_of_a_text() -> None:
    tokenizer = byte_level(None)
    tokenizer.eos_token = None
    for name in ("alpaca", "raw"):
        with pytest.raises(RunError, match=f"{name} needs an end-of-text token in the vocabulary"):
            chat_format(tokenizer, name)


def test_a_template_may_be_given_as_text_or_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, "utf-8")
    for options in ({"template": CHATML}, {"path": file}):
        assert chat_format(byte_level(LLAMA3), **options).source == CHATML
    file.write_bytes(b"\xff\xfe{{")
    with pytest.raises(RunError, match=r"chat_template_path: .*chat\.jinja cannot be read"):
        chat_format(byte_level(), path=file)
    file.write_bytes(b"{{ 1 }}" * 200_000)
    with pytest.raises(RunError, match="is over 1 MB, so it is no chat template"):
        chat_format(byte_level(), path=file)
    with pytest.raises(RunError, match="the chat template refuses the row"):
        chat_format(byte_level(), "{{ messages | }}")


def test_a_template_that_looks_into_a_reply_is_asked_about_each() -> None:
    curious = CHATML.replace(
        "message['content']", "(message['content'].split('</t>')[-1] if not loop.last else message['content'])"
    )
    tokenizer = byte_level(curious)
    format_ = chat_format(tokenizer)
    assert format_.layout.looked_for.search("a</t>b")
    assert not format_.layout.looked_for.search("user: what is the role of a list [1, 2] <b>?")
    with pytest.raises(RowError, match="changes the reply"):
        only(format_, [*chat("a</t>b"), *chat("two")])
    assert sound(format_, chat("a</t>b")).replies == ("a</t>b",)


@pytest.mark.parametrize("condition", ["'/think' in messages[-1]['content']", "messages[-1]['content'] | length > 20"])
def test_a_prompt_that_hangs_on_the_question(condition: str) -> None:
    asks = "'<|im_start|>assistant\n'"
    source = CHATML.replace(asks, f"{asks} + ('<think>\n' if {condition} else '')")
    format_ = chat_format(byte_level(source))
    assert sound(format_, chat("yes", "is it?")).replies == ("yes",)
    assert sound(format_, chat("yes", "is it, really?  /think")).replies == ("\n</think>\n\nyes",)
    assert sound(format_, chat("yes", "is it?")).replies == ("yes",)


def test_orders_of_roles_beyond_those_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.chat.layout.MOST_SHAPES", 1)
    format_ = chat_format(byte_level(CHATML))
    rows = [chat("one"), [*chat("one"), *chat("two")], chat("one", system="be brief")]
    assert [sound(format_, messages).replies for messages in rows] == [("one",), ("one", "two"), ("one",)]
    assert len(format_.layout.shapes) == 1


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "normalized", "single_word"])
def test_tokens_that_touch_their_surroundings_are_not_split_off(flag: str) -> None:
    from tokenizers import AddedToken

    tokenizer = with_tokens("")
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True, **{flag: True})])
    tokenizer.backend_tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.chat_template = CHATML
    encoded = sound(chat_format(tokenizer), [*chat("yes "), *chat(" no")])
    assert encoded.replies == ("yes ", " no")
    prompt = tokenizer.apply_chat_template(chat("x")[:1], add_generation_prompt=True, return_dict=False)
    assert encoded.input_ids[: len(prompt)] == prompt


def test_a_tokenizer_without_a_fast_backend() -> None:
    class Slow:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self._tokenizer, name)

        def __call__(self, *args: Any, **options: Any) -> Any:
            return self._tokenizer(*args, **options)

    tokenizer = byte_level(CHATML)
    slow, fast = chat_format(Slow(tokenizer)), chat_format(tokenizer)
    assert slow.tokens.source() == ""
    messages = [*chat("yes\n", "is it?", "be brief"), *chat("\u00e9")]
    assert sound(slow, messages) == sound(fast, messages)


def test_padding_and_truncation_of_other_users_are_not_ours() -> None:
    tokenizer = byte_level(CHATML)
    format_ = chat_format(tokenizer)
    before = sound(format_, chat("yes " * 50))
    tokenizer(["x", "y " * 50], padding=True, truncation=True, max_length=4)
    assert sound(format_, chat("yes " * 50)) == before


@pytest.mark.parametrize("name", ["idefics3", "llava_next", "smolvlm"])
def test_a_template_that_takes_lists_of_parts(name: str) -> None:
    tokenizer = with_tokens(templates_of_trl()[f"{name}.jinja"])
    format_ = chat_format(tokenizer)
    messages = [*chat("yes", "is it?"), *chat("no")]
    encoded = sound(format_, messages)
    end = tokenizer.convert_ids_to_tokens(format_.end_of_turn)
    assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == [f" yes{end}", f" no{end}"]
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    assert encoded.input_ids == tokenizer.apply_chat_template(parts, return_dict=False)
    assert sound(format_, parts) == encoded


def test_the_template_of_a_processor_whose_tokenizer_has_none() -> None:
    tokenizer = byte_level(None)
    processor = SimpleNamespace(tokenizer=tokenizer, chat_template=CHATML)
    assert chat_format(processor).source == CHATML
    tokenizer.chat_template = LLAMA3
    assert chat_format(processor).source == LLAMA3


def test_variables_reach_the_template() -> None:
    tokenizer = with_tokens(templates_of_trl()["qwen3.jinja"])
    plain, quiet = (chat_format(tokenizer, variables=told) for told in ({}, {"enable_thinking": False}))
    assert sound(plain, chat("yes")).replies == ("<think>\n\n</think>\n\nyes",)
    encoded = sound(quiet, chat("yes"))
    assert encoded.replies == ("yes",)
    prompt = tokenizer.apply_chat_template(
        chat("x")[:1], add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    assert encoded.input_ids[: len(prompt)] == prompt


def test_variables_come_before_the_date_that_is_fixed() -> None:
    tokenizer = byte_level("{{ date_string }}" + CHATML)
    encoded = sound(chat_format(tokenizer, variables={"date_string": "1 May 2026"}), chat("yes"))
    assert tokenizer.decode(encoded.input_ids).startswith("1 May 2026<")
