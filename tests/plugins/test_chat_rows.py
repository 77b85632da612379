"""The plugin `chat`: forms of rows, options, and what the engine makes of its answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chat_cases import templates_of_trl
from chat_kit import CHATML, OPENING, TOOLS, byte_level, sentencepiece, trained_texts, with_tokens
from ftcore.api import MASKED, Drop, Example, Format, Row, RowError, Rows, RunError
from ftcore.testing import heavy_imports, make_config, make_run, plugin_faults
from ftcore_plugins.chat import Chat, Options

ASKED = [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"}]
SHARED = [{"from": "human", "value": "is it?"}, {"from": "gpt", "value": "yes"}]
TALK = "<|im_start|>user\nis it?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
BRIEF = "<|im_start|>system\nbe brief<|im_end|>\n"

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": ASKED}),
    ("sharegpt", {"conversations": SHARED}),
    ("instruction", {"instruction": "is it?", "output": "yes"}),
    ("instruction", {"instruction": "is it?", "input": "", "output": "yes"}),
    ("instruction", {"instruction": "is it?", "input": None, "output": "yes"}),
    ("question", {"question": "is it?", "answer": "yes"}),
    ("completion", {"prompt": "is it?", "completion": "yes"}),
    ("completion", {"prompt": ASKED[:1], "completion": ASKED[1:]}),
]


def row(number: int = 1, **values: Any) -> Row:
    return Row(values=values, origin=f"rows.jsonl:{number}")


def format_of(
    *rows: Row, tokenizer: Any = None, tables: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> Format:
    run = make_run(Path(), **(tables or {}))
    given = Rows(train=rows, validation=(), fingerprint="")
    return Chat(Options(**options)).format_dataset(run, given, tokenizer or byte_level(CHATML))


def encoded(one: Row, **options: Any) -> Example:
    [example] = format_of(one, **options).encode([one])
    assert isinstance(example, Example), example
    return example


def read(one: Row, **options: Any) -> str:
    return str(byte_level(CHATML).decode(encoded(one, **options).input_ids))


def refused(one: Row, **options: Any) -> str:
    options.setdefault("format", "auto")
    with pytest.raises(RowError) as caught:
        format_of(row(messages=ASKED), **options).encode([one])
    assert caught.value.origin == one.origin
    return caught.value.reason


@pytest.mark.parametrize(("form", "values"), FORMS)
def test_each_form_is_told_by_its_columns_or_named(form: str, values: dict[str, Any]) -> None:
    one = row(**values, score=3)
    example = encoded(one)
    assert byte_level().decode(example.input_ids) == TALK
    assert example.replies == ("yes",)
    assert trained_texts(byte_level(), example.input_ids, example.labels) == ["yes<|im_end|>"]
    assert encoded(one, format=form) == example


@pytest.mark.parametrize(("form", "values"), FORMS)
def test_a_column_system_and_option_system_prompt(form: str, values: dict[str, Any]) -> None:
    assert read(row(**values, system="be brief")) == BRIEF + TALK
    assert read(row(**values), system_prompt="be brief") == BRIEF + TALK
    assert read(row(**values, system="be brief"), system_prompt="be loud") == BRIEF + TALK
    assert read(row(**values, system=None), system_prompt="be brief") == BRIEF + TALK


def test_a_system_message_of_the_row_wins() -> None:
    messages = [{"role": "system", "content": "be brief"}, *ASKED]
    assert read(row(messages=messages, system="be loud"), system_prompt="be loud") == BRIEF + TALK


def test_an_input_follows_the_instruction() -> None:
    assert "user\nadd\n\n1 and 2<|im_end|>" in read(row(instruction="add", input="1 and 2", output="3"))


ONE_QUESTION = [values for form, values in FORMS if form == "question" or isinstance(values.get("prompt"), str)]


@pytest.mark.parametrize("values", [FORMS[2][1], *ONE_QUESTION])
def test_a_history_comes_before_the_question(values: dict[str, Any]) -> None:
    history = [["who?", "me"], ["where?", "here"]]
    first = "".join(TALK.replace("is it?", question).replace("yes", reply) for question, reply in history)
    for written in (history, json.dumps(history)):  # CSV has it as text
        example = encoded(row(**values, history=written, system="be brief"))
        assert byte_level().decode(example.input_ids) == BRIEF + first + TALK
        assert example.replies == ("me", "here", "yes")
    assert encoded(row(**values, history=history), train_on="last").replies == ("yes",)
    assert all(read(row(**values, history=none)) == TALK for none in ([], "", "[]", None))


@pytest.mark.parametrize("history", ["long ago", {"a": 1}, ["ab"], [["who?"]], [["who?", None]], [["a", "b", "c"]]])
def test_a_history_of_anything_but_pairs_is_refused(history: Any) -> None:
    reason = "column 'history' must be a list of pairs of question and reply; name it otherwise by data.columns"
    assert refused(row(instruction="is it?", output="yes", history=history)) == reason


@pytest.mark.parametrize("name", ["image", "images", "videos", "audios"])
def test_what_no_text_can_tell_is_refused(name: str) -> None:
    reason = f"column {name!r}: chat trains texts alone; use a plugin for it, or name it otherwise by data.columns"
    assert refused(row(conversations=SHARED, **{name: ["a.png"]})) == reason
    assert read(row(messages=ASKED, **{name: []})) == TALK


def test_a_row_of_llama_factory_with_calls_of_tools() -> None:
    turns = [
        {"from": "human", "value": "how is the weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"a": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "it is sunny"},
    ]
    function = {"name": "weather", "description": "d", "parameters": {}}
    tokenizer = byte_level(TOOLS)
    asked = row(conversations=turns, system="be brief", tools=json.dumps([function]))
    [example] = format_of(asked, tokenizer=tokenizer).encode([asked])
    assert isinstance(example, Example)
    text = tokenizer.decode(example.input_ids)
    assert json.dumps({"type": "function", "function": function}) in text
    assert BRIEF in text
    assert "sunny" in text.split("it is sunny")[0]
    call = '<call>{"name": "weather", "arguments": {"a": "Rome"}}</call>'
    assert trained_texts(tokenizer, example.input_ids, example.labels) == [f"{call}<|im_end|>", "it is sunny<|im_end|>"]


def test_replies_in_the_prompt_of_a_completion_are_given() -> None:
    one = row(prompt=[*ASKED, *ASKED[:1]], completion=ASKED[1:])
    example = encoded(one)
    assert example.replies == ("yes",)
    assert byte_level().decode(example.input_ids) == TALK + TALK
    assert trained_texts(byte_level(), example.input_ids, example.labels) == ["yes<|im_end|>"]


def test_sources_may_be_mixed_and_keep_their_order() -> None:
    rows = [row(number, **values) for number, (_, values) in enumerate(FORMS)]
    answers = list(format_of(*rows).encode(rows))
    assert [answer.origin for answer in answers] == [one.origin for one in rows]
    assert all(isinstance(answer, Example) and answer.replies == ("yes",) for answer in answers)


def test_the_form_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ftcore")
    format_of(row(messages=ASKED), row(question="is it?", answer="yes"))
    assert [record.message for record in caplog.records] == [
        "rows are read as messages (messages), question (question, answer), by their columns; "
        "plugin.chat.format overrides it"
    ]
    caplog.clear()
    format_of(row(messages=ASKED), format="messages")
    assert not caplog.records


def test_forms_that_come_late_in_many_rows_are_said_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ftcore")
    early, late = (
        [row(number, **values) for number in range(300)]
        for values in ({"messages": ASKED}, {"question": "is it?", "answer": "yes"})
    )
    format_of(*early, *late)
    assert "messages (messages), question (question, answer)" in caplog.records[0].message


@pytest.mark.parametrize("options", [{"train_on": "last"}, {"system_prompt": "be brief"}, {"chat_template": "chatml"}])
def test_options_for_chats_are_not_passed_over_in_plain_text(options: dict[str, str]) -> None:
    with pytest.raises(RunError, match=rf"plugin.chat.{next(iter(options))}: has no effect on rows of plain text"):
        format_of(row(text="once upon a time"), **options)


def test_rows_that_cannot_be_read_do_not_hide_the_form() -> None:
    class Torn(list[Row]):
        def __getitem__(self, place: Any) -> Any:
            if place == 0:
                raise RowError("is torn", origin="rows.jsonl:1")
            return super().__getitem__(place)

    rows = Rows(train=Torn([row(), row(2, messages=ASKED)]), validation=(), fingerprint="")
    assert Chat(Options()).format_dataset(make_run(Path()), rows, byte_level(CHATML)).trains == "replies"


def test_no_known_form_is_an_error_before_anything_is_formatted() -> None:
    with pytest.raises(RunError, match=r"plugin.chat.format: the columns \(a, b\) are of no known form \(messages;"):
        format_of(row(a="x", b="y"))
    with pytest.raises(RunError, match=r"the columns \(none\) are of no known form"):
        format_of()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": None}, "column 'messages' is null"),
        ({"instruction": "x", "output": None}, "column 'output' is null"),
        ({"messages": []}, "messages is an empty list"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "message 1 has the unknown role 'usr'; did you mean 'user'?"),
        ({"messages": ASKED[1:]}, "the conversation begins with the assistant"),
        ({"messages": [*ASKED[:1], *ASKED]}, "messages 1 and 2 are both the user's"),
        ({"conversations": "x"}, "conversations must be a list, not a text"),
        ({"chat": []}, "the columns (chat) are of no known form"),
        ({}, "the columns (none) are of no known form"),
        ({"instruction": 3, "output": "x"}, "column 'instruction' must be a text, not a number"),
        ({"question": "x", "answer": ["y"]}, "column 'answer' must be a text, not a list"),
        ({"prompt": ASKED[:1], "completion": "x"}, "prompt and completion are a list and a text; both must be"),
        ({"prompt": 3, "completion": "x"}, "column 'prompt' must be a text, not a number"),
        ({"messages": ASKED, "system": 3}, "column 'system' must be a text, not a number"),
        ({"text": "x"}, "plain text among conversations"),
    ],
)
def test_a_bad_row_says_why(values: dict[str, Any], reason: str) -> None:
    assert refused(row(9, **values)).startswith(reason)


@pytest.mark.parametrize("form", ["messages", "sharegpt", "instruction", "question", "completion"])
def test_a_named_form_asks_for_its_columns(form: str) -> None:
    assert refused(row(9, other="x"), format=form).startswith("no column ")


def test_option_train_on() -> None:
    one = row(messages=[*ASKED, *ASKED])
    tokenizer = byte_level(CHATML)
    for train_on, texts in {"all": ["yes<|im_end|>"] * 2, "last": ["yes<|im_end|>"]}.items():
        example = encoded(one, train_on=train_on)
        assert trained_texts(tokenizer, example.input_ids, example.labels) == texts
        assert tokenizer.decode(example.input_ids) == TALK + TALK
    assert format_of(one, train_on="last").trains == "replies"


def test_option_train_on_everything() -> None:
    one = row(messages=[*ASKED, *ASKED])
    format_ = format_of(one, train_on="everything")
    [example] = format_.encode([one])
    assert isinstance(example, Example)
    assert format_.trains == "everything"
    assert example.labels == [MASKED, *example.input_ids[1:]]
    assert byte_level().decode(example.input_ids) == (TALK + TALK).removesuffix("\n")
    assert example.input_ids[-1] == format_.end_of_turn
    assert example.replies == ("yes", "yes")


def test_plain_text_is_trained_whole() -> None:
    tokenizer = byte_level(None)
    rows = [row(1, text="def f(): pass\n"), row(2, text=" "), row(3, text="a<|eot_id|>"), row(4, text="\ud800")]
    format_ = format_of(*rows, tokenizer=tokenizer)
    example, *drops = format_.encode(rows)
    assert isinstance(example, Example)
    assert tokenizer.decode(example.input_ids) == "def f(): pass\n<|end_of_text|>"
    assert example.labels == [MASKED, *example.input_ids[1:]]
    assert (format_.trains, format_.end_of_turn) == ("everything", tokenizer.eos_token_id)
    reasons = ["empty text", "contains control tokens", "not valid unicode"]
    assert drops == [Drop(origin=f"rows.jsonl:{n}", reason=reason) for n, reason in enumerate(reasons, start=2)]
    assert format_.processor is tokenizer
    with pytest.raises(RowError, match=r"rows\.jsonl:5: no column 'text'"):
        format_.encode([row(5, messages=ASKED)])


def test_plain_text_begins_as_the_tokenizer_begins_a_text() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level(None)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    old = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    try:
        [example] = format_of(row(text="x"), tokenizer=tokenizer).encode([row(text="x")])
    finally:
        tokenizer.backend_tokenizer.post_processor = old
    assert isinstance(example, Example)
    assert tokenizer.decode(example.input_ids) == "<|begin_of_text|>x<|end_of_text|>"


def test_plain_text_needs_a_token_for_its_end() -> None:
    tokenizer = sentencepiece()
    tokenizer.eos_token = None
    with pytest.raises(RunError, match="the tokenizer has no end-of-text token"):
        format_of(row(text="x"), tokenizer=tokenizer)


def test_a_named_template_goes_on_with_the_run() -> None:
    tokenizer = byte_level(None)
    for given in (tokenizer, SimpleNamespace(tokenizer=tokenizer, chat_template=None)):
        format_ = format_of(row(messages=ASKED), tokenizer=given, chat_template="chatml")
        assert "im_start" in format_.processor.chat_template
        assert format_.processor is not given
        assert given.chat_template is tokenizer.chat_template is None
    assert "im_start" in format_.processor.tokenizer.chat_template
    own = byte_level(CHATML)
    assert format_of(row(messages=ASKED), tokenizer=own).processor is own


def test_check_looks_at_the_template(tmp_path: Path) -> None:
    assert Chat(Options(chat_template="chatml")).check() == []
    assert Chat(Options(chat_template="{{ messages }}")).check() == []
    [problem] = Chat(Options(chat_template="chat_ml")).check()
    assert problem.key == "plugin.chat.chat_template"
    assert problem.message == "no built-in chat template 'chat_ml'; did you mean 'chatml'?"
    [problem] = Chat(Options(chat_template="my.jinja")).check()
    assert problem.message == "'my.jinja' is a file; name it by chat_template_path"
    [problem] = Chat(Options(chat_template_path=tmp_path / "no.jinja")).check()
    assert problem.key == "plugin.chat.chat_template_path"
    [problem] = Chat(Options(chat_template="chatml", chat_template_path=tmp_path / "no.jinja")).check()
    assert problem.message == "chat_template is set as well; keep one of the two"


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ messages }", "line 1: unexpected '}'"),
        ("{% for m in messages %}\n{{ m }}", "line 2: Unexpected end of template"),
        ("{{ messages | nonsense }}", "line 1: No filter named 'nonsense'"),
        ("{% break %}", "'break' outside loop"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "it is nested too deeply"),
        ("{% for m in x %}{% break %}{% generation %}{{ m | tojson(indent=4) }}{% endgeneration %}{% endfor %}", ""),
    ],
    ids=range(6),
)
def test_check_reads_the_template(tmp_path: Path, source: str, fault: str) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(source, "utf-8")
    for plugin in (Chat(Options(chat_template_path=file)), Chat(Options(chat_template=source))):
        problems = plugin.check()
        assert [fault in problem.message for problem in problems] == ([True] if fault else [])
    file.write_bytes(b"\xff")
    [problem] = Chat(Options(chat_template_path=file)).check()
    assert problem.message.startswith(f"{file} cannot be read: ")


def asked_of(format_: Format, one: Row) -> list[Example | Drop]:
    assert format_.ask
    return list(format_.ask([one]))


def test_option_chat_template_kwargs() -> None:
    source = "{{ '<|im_start|>system\n' + (mood or 'none') + '<|im_end|>\n' }}" + CHATML
    one, tokenizer = row(messages=ASKED), byte_level(source)
    plain, told = (format_of(one, tokenizer=tokenizer, chat_template_kwargs=mood) for mood in ({}, {"mood": "dry"}))
    made = [*plain.encode([one]), *asked_of(plain, one), *told.encode([one]), *asked_of(told, one)]
    texts = [tokenizer.decode(example.input_ids) for example in made if isinstance(example, Example)]
    assert ["dry" in text for text in texts] == [False, False, True, True]
    assert plain.fingerprint != told.fingerprint
    assert told.processor is tokenizer


def test_check_keeps_the_names_of_the_conversation() -> None:
    [problem] = Chat(Options(chat_template_kwargs={"messages": "x", "enable_thinking": False})).check()
    assert problem.key == "plugin.chat.chat_template_kwargs.messages"
    assert problem.message == "messages comes from the rows; leave it out"


def test_ends_that_no_answer_stops_at_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_tokens(templates_of_trl()["gptoss.jinja"])
    format_ = format_of(row(messages=ASKED), tokenizer=tokenizer)
    assert tokenizer.convert_ids_to_tokens([*format_.other_ends, *format_.inner_ends]) == ["<|call|>", "<|end|>"]
    assert "ends all replies of a row but the last with <|end|>" in caplog.text
    caplog.clear()
    format_of(row(messages=ASKED), tokenizer=tokenizer, train_on="last")
    assert "ends all replies" not in caplog.text


def test_check_tells_options_that_plain_text_has_not() -> None:
    assert Chat(Options(format="text")).check() == []
    problems = Chat(Options(format="text", train_on="last", system_prompt="be brief")).check()
    assert [problem.key for problem in problems] == ["plugin.chat.system_prompt", "plugin.chat.train_on"]


def test_a_model_that_only_the_last_reply_can_be_trained_of_says_what_to_set() -> None:
    one = row(messages=[*ASKED, *ASKED])
    with pytest.raises(RowError, match='set train_on = "last"'):
        format_of(one, tokenizer=byte_level(OPENING)).encode([one])


def test_the_plugin_is_sound_and_its_face_is_light() -> None:
    assert plugin_faults(Chat) == []
    assert heavy_imports("ftcore_plugins.chat") == []
    assert make_config(Options, {"train_on": "last"}).train_on == "last"
    with pytest.raises(ValueError, match="did you mean 'sharegpt'"):
        make_config(Options, {"format": "shargpt"})
