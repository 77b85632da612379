from __future__ import annotations

import json
from typing import Any

import pytest

from ftcore.api import RowError
from ftcore_plugins.common.chat import conversation

USER = {"role": "user", "content": "is it?"}
REPLY = {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "be brief"}
TOOL = {"role": "tool", "content": "sunny"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def read(*messages: Any, **options: Any) -> Any:
    return conversation(list(messages), "rows.jsonl:7", **options)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages must be a list, not null"),
        (3, "messages must be a list, not a number"),
        ("hello", "messages must be a list, not a text"),
        ({"role": "user"}, "messages must be a list, not an object"),
        ([], "messages is an empty list; write a question and a reply, or leave the row out"),
        (["hello"], "message 1 must have a role and a content, but it is a text"),
        ([USER, {"content": "yes"}], "message 2 has no role; it must be system, user, assistant or tool"),
        (
            [USER, {"role": "asistant", "content": "x"}],
            "message 2 has the unknown role 'asistant'; did you mean 'assistant'?",
        ),
        ([{"role": "User", "content": "x"}], "message 1 has the unknown role 'User'; did you mean 'user'?"),
        (
            [{"role": "zzz", "content": "x"}],
            "message 1 has the unknown role 'zzz'; there are system, user, assistant and tool",
        ),
        ([{"role": ["user"], "content": "x"}], "message 1 has no role; it must be system, user, assistant or tool"),
        ([{"role": "user", "content": None}, REPLY], "message 1 (user) must have a text as its content, not null"),
        (
            [USER, {"role": "assistant", "content": None}],
            "message 2 (assistant) must have a text as its content, not null",
        ),
        ([{"role": "user"}, REPLY], "message 1 (user) must have a text as its content, not null"),
        ([{"role": "user", "content": 3}, REPLY], "message 1 (user) must have a text as its content, not a number"),
        ([{"role": "user", "content": []}, REPLY], "message 1 (user) must have a text as its content, not a list"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, REPLY],
            "message 1 (user) has parts that are no text; a plugin for images can train them",
        ),
        (
            [REPLY],
            "the conversation begins with the assistant; it must begin with the user, after an optional system message",
        ),
        ([SYSTEM, REPLY], "message 2 (assistant) may not follow the system's; user and assistant must take turns"),
        ([USER, USER, REPLY], "messages 1 and 2 are both the user's; user and assistant must take turns"),
        ([USER, REPLY, REPLY], "messages 2 and 3 are both the assistant's; user and assistant must take turns"),
        ([USER, REPLY, SYSTEM], "message 3 is a system message; only the first one may be"),
        ([SYSTEM, SYSTEM, USER], "message 2 is a system message; only the first one may be"),
        ([USER, TOOL, REPLY], "message 2 (tool) may not follow the user's; user and assistant must take turns"),
        ([USER, REPLY, TOOL, USER], "message 4 (user) may not follow the tool's; user and assistant must take turns"),
        ([USER], "there is no reply to train: no message is the assistant's"),
        ([SYSTEM, USER], "there is no reply to train: no message is the assistant's"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_says_why(messages: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        conversation(messages, "rows.jsonl:7")
    assert (caught.value.reason, caught.value.origin) == (reason, "rows.jsonl:7")


def test_a_plain_conversation_stays_as_it_is() -> None:
    one = read(SYSTEM, USER, REPLY)
    assert one.messages == [SYSTEM, USER, REPLY]
    assert one.roles == ("system", "user", "assistant")
    assert one.plain
    assert not one.given


@pytest.mark.parametrize(("human", "gpt"), [("human", "gpt"), ("user", "chatgpt"), ("human", "bot"), ("user", "model")])
def test_the_names_of_sharegpt(human: str, gpt: str) -> None:
    one = read(
        {"from": "system", "value": "be brief"}, {"from": human, "value": "is it?"}, {"from": gpt, "value": "yes"}
    )
    assert one.messages == [SYSTEM, USER, REPLY]


def test_columns_that_other_rows_need_may_be_null() -> None:
    null = {"tool_calls": None, "name": None, "weight": None, "value": None, "from": None}
    one = read({**USER, **null}, {**REPLY, **null})
    assert one.messages == [USER, REPLY]
    assert one.plain


def test_openais_developer_and_parts_of_text() -> None:
    parts = [{"type": "text", "text": "is "}, {"type": "text", "text": "it?"}]
    assert read({"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}, REPLY).messages == [
        SYSTEM,
        USER,
        REPLY,
    ]


def test_a_list_may_be_written_as_json() -> None:
    assert conversation(json.dumps([USER, REPLY]), "x").messages == [USER, REPLY]


def test_what_follows_the_last_reply_is_cut_off() -> None:
    assert read(USER, REPLY, USER).messages == [USER, REPLY]
    assert read(USER, REPLY, TOOL).roles == ("user", "assistant")


def test_the_system_prompt_of_the_profile_yields_to_the_rows() -> None:
    assert read(USER, REPLY, system="be brief").messages[0] == SYSTEM
    assert read(SYSTEM, USER, REPLY, system="be loud").messages == [SYSTEM, USER, REPLY]


def test_replies_of_weight_0_are_given() -> None:
    assert read(USER, {**REPLY, "weight": 0}, USER, {**REPLY, "weight": 1}).given == {1}
    assert read(USER, {**REPLY, "weight": 0}, USER, REPLY, system="be brief").given == {2}
    assert read(USER, REPLY, USER, REPLY, given=2).given == {0, 1}


@pytest.mark.parametrize("name", ["weight", "train", "training"])
@pytest.mark.parametrize("no", [0, 0.0, False])
def test_replies_with_a_flag_that_is_false_are_given(name: str, no: Any) -> None:
    assert read(USER, {**REPLY, name: no}, USER, {**REPLY, name: not no}).given == {1}
    assert read({**USER, name: no}, {**REPLY, name: None}).given <= {0}
    from_sharegpt = [{"from": "human", "value": "is it?"}, {"from": "gpt", "value": "yes", name: no}]
    assert read(*from_sharegpt, *from_sharegpt, system="be brief").given == {2, 4}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({**REPLY, "weight": 0.5}, "(assistant) has 'weight' 0.5, which must be true or false, or 1 or 0"),
        ({**REPLY, "train": "no"}, "(assistant) has 'train' 'no', which must be true or false, or 1 or 0"),
        ({**USER, "training": True}, "(user) has 'training' true, but replies alone are trained; leave it out"),
        (
            {**REPLY, "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
            "(assistant) has 'train_detail', but a reply is trained as a whole; leave it out",
        ),
    ],
)
def test_a_flag_that_cannot_be_followed_is_refused(message: Any, reason: str) -> None:
    before = [USER] if message["role"] == "assistant" else [USER, REPLY]
    with pytest.raises(RowError) as caught:
        read(*before, message, *([] if len(before) == 1 else [REPLY]))
    assert caught.value.reason == f"message {len(before) + 1} {reason}"


@pytest.mark.parametrize("kind", [{}, {"type": "function"}])
def test_a_tool_that_is_a_function_alone_is_written_as_in_use(kind: dict[str, str]) -> None:
    function = {"name": "weather", "description": "d", "parameters": {}}
    bare = json.dumps([{**kind, **function}])  # LLaMA-Factory's sets have the tools as text
    assert read(USER, REPLY, tools=bare).tools == [{"type": "function", "function": function}]


@pytest.mark.parametrize(
    "calling",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"from": "function_call", "value": '[{"name": "weather", "arguments": {"city": "Rome"}}]'},
    ],
)
def test_tool_calls_are_put_into_one_form(calling: Any) -> None:
    one = read(USER, calling, {"from": "observation", "value": "sunny"}, REPLY)
    assert one.messages == [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, TOOL, REPLY]
    assert not one.plain


def test_a_call_may_have_a_text_an_id_and_no_arguments() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now"}}
    message = read(USER, {**REPLY, "tool_calls": [call]}).messages[1]
    assert message["content"] == "yes"
    assert message["tool_calls"] == [{"type": "function", "id": "c1", "function": {"name": "now", "arguments": {}}}]


@pytest.mark.parametrize("calls", [[{}], ["x"], [{"function": {"arguments": {}}}], "no", 3, [None]])
def test_a_call_without_a_name_is_refused(calls: Any) -> None:
    with pytest.raises(
        RowError, match=r"message 2 \(assistant\) has tool calls of which one has no function with a name"
    ):
        read(USER, {"role": "assistant", "content": None, "tool_calls": calls})


def test_thoughts_go_by_several_names() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert read(USER, {**REPLY, name: "hm"}).messages[1] == {**REPLY, "reasoning_content": "hm"}
    assert read(USER, {**REPLY, "reasoning_content": " "}).plain


def test_tools_are_a_list_or_its_json() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert read(USER, REPLY, tools=tools).tools == read(USER, REPLY, tools=json.dumps(tools)).tools == tools
    for nothing in (None, [], "", "[]"):
        assert read(USER, REPLY, tools=nothing).plain
    for wrong in (3, "x", ["x"], {"name": "weather"}):
        with pytest.raises(RowError, match="tools must be a list of JSON schemas"):
            read(USER, REPLY, tools=wrong)
