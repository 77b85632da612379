"""Tool calls, tools and thoughts: what only the template knows how to write."""

from __future__ import annotations

from typing import Any

import pytest

from chat_cases import templates_of_trl
from chat_kit import (
    CHATML,
    FORGETFUL,
    OPENING,
    REASONING,
    TOOLS,
    byte_level,
    chat,
    only,
    sound,
    trained_texts,
    with_tokens,
)
from ftcore.api import RowError
from ftcore_plugins.common.chat import Refused, chat_format

ASK = {"role": "user", "content": "how is the weather?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "weather", "arguments": '{"a": "Rome"}'}}],
}
ANSWER = {"role": "tool", "content": "sunny"}
REPLY = {"role": "assistant", "content": "it is sunny"}
SCHEMA = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}]
CALLED = '<call>{"name": "weather", "arguments": {"a": "Rome"}}</call>'
THOUGHT = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


def trained(template: str, messages: Any, train: Any = "all", **options: Any) -> list[str]:
    tokenizer = byte_level(template)
    encoded = sound(chat_format(tokenizer, train=train), messages, **options)
    return trained_texts(tokenizer, encoded.input_ids, encoded.labels)


def refused(template: str, messages: Any, train: Any = "all", **options: Any) -> str:
    with pytest.raises(RowError) as caught:
        only(chat_format(byte_level(template), train=train), messages, **options)
    return caught.value.reason


def test_a_call_is_trained_as_the_template_writes_it() -> None:
    assert trained(TOOLS, [ASK, CALL, ANSWER, REPLY]) == [f"{CALLED}<|im_end|>", "it is sunny<|im_end|>"]
    assert trained(TOOLS, [ASK, CALL]) == [f"{CALLED}<|im_end|>"]
    assert trained(TOOLS, [ASK, {**CALL, "content": "let me see "}]) == [f"let me see {CALLED}<|im_end|>"]


def test_tools_are_written_for_the_model() -> None:
    tokenizer = byte_level(TOOLS)
    encoded = sound(chat_format(tokenizer), [ASK, REPLY], tools=SCHEMA)
    assert tokenizer.decode(encoded.input_ids).startswith('<|im_start|>tools\n[{"type": "function"')
    assert "tools" not in tokenizer.decode(sound(chat_format(tokenizer), [ASK, REPLY]).input_ids)


def test_rows_with_tools_and_without_keep_their_order() -> None:
    from ftcore_plugins.common.chat import conversation

    rows = [chat("one"), [ASK, CALL], chat("two"), [ASK, CALL, ANSWER, REPLY]]
    tools = [None, SCHEMA, None, None]
    made = [conversation(row, "x", tools=schema) for row, schema in zip(rows, tools, strict=True)]
    replies = [row.replies for row in chat_format(byte_level(TOOLS)).encode(made) if not isinstance(row, Refused)]
    assert replies == [("one",), (CALLED,), ("two",), (CALLED, "it is sunny")]


def test_a_template_without_tools_is_told_apart() -> None:
    assert refused(CHATML, [ASK, CALL]) == "the chat template leaves out a tool call; use a template for tools"
    assert refused(CHATML, [ASK, REPLY], tools=SCHEMA) == (
        "the chat template does not write the tool 'weather'; use a template for tools"
    )
    assert "does not write the tool None" in refused(CHATML, [ASK, REPLY], tools=[{"type": "function"}])


def test_a_template_that_does_not_end_a_call() -> None:
    # The end of the tool's message must not be taken for that of the call.
    endless = TOOLS.replace(
        "{{ '<|im_end|>\n' }}{% endfor %}{% if",
        "{% if not message.tool_calls %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}{% if",
    )
    assert endless != TOOLS
    assert refused(endless, [ASK, CALL, ANSWER, REPLY]) == (
        "the chat template ends a reply with '<|im_start|>', which is no end of a turn; "
        'set train_on = "last", or use another template'
    )
    assert refused(endless, [ASK, CALL]) == "the chat template ends a reply with no token; use another template"
    assert trained(endless, [ASK, CALL, ANSWER, REPLY], train="last") == ["it is sunny<|im_end|>"]


@pytest.mark.parametrize("place", ["name", "arguments", "tools", "result"])
def test_control_tokens_are_found_in_calls_and_tools(place: str) -> None:
    spelled = {name: "<|eot_id|>" if name == place else "x" for name in ("name", "arguments", "tools", "result")}
    call = {"function": {"name": spelled["name"], "arguments": {"a": [spelled["arguments"]]}}}
    messages = [ASK, {**CALL, "tool_calls": [call]}, {"role": "tool", "content": spelled["result"]}, REPLY]
    tools = [{"function": {"name": "f", "description": spelled["tools"]}}]
    assert only(chat_format(byte_level(TOOLS)), messages, tools=tools) == Refused(reason="contains control tokens")


def test_a_tool_role_of_plain_text_needs_no_template_for_tools() -> None:
    assert trained(CHATML, [ASK, REPLY, ANSWER, REPLY]) == ["it is sunny<|im_end|>"] * 2


def test_thoughts_are_trained_as_the_template_writes_them() -> None:
    assert trained(REASONING, [ASK, THOUGHT]) == ["<think>hm</think>yes<|im_end|>"]
    written = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    assert trained(REASONING, [ASK, written]) == ["<think>hm</think>yes<|im_end|>"]
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n\nyes"}
    assert trained(REASONING, [ASK, empty]) == ["yes<|im_end|>"]
    torn = {"role": "assistant", "content": "a</think>b"}
    assert trained(REASONING, [ASK, torn]) == ["a</think>b<|im_end|>"]


def test_a_template_without_thoughts_trains_them_as_text_or_refuses_a_column() -> None:
    written = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    assert trained(CHATML, [ASK, written]) == ["<think>\nhm\n</think>\n\nyes<|im_end|>"]
    assert "leaves out the thoughts of a reply" in refused(CHATML, [ASK, THOUGHT])


def test_thoughts_of_an_earlier_reply_that_the_template_leaves_out() -> None:
    assert "leaves out the thoughts" in refused(REASONING, [ASK, THOUGHT, ASK, THOUGHT])
    assert trained(REASONING, [ASK, THOUGHT, ASK, THOUGHT], train="last") == ["<think>hm</think>yes<|im_end|>"]


def test_a_prompt_that_opens_thoughts_which_the_conversation_lacks() -> None:
    tokenizer = byte_level(OPENING)
    format_ = chat_format(tokenizer)
    for reply, said in (
        ("yes", "\n</think>\n\nyes"),
        ("<think>\n\n</think>\n\nyes", "\n</think>\n\nyes"),
        ("<think>\nhm\n</think>\n\nyes", "hm\n</think>\n\nyes"),
        ("hm\n</think>\n\nyes", "hm\n</think>\n\nyes"),
    ):
        encoded = sound(format_, chat(reply))
        assert encoded.replies == (said,)
        prompt = tokenizer.apply_chat_template(chat("x")[:1], add_generation_prompt=True, return_dict=False)
        assert encoded.input_ids[: len(prompt)] == prompt
        assert tokenizer.decode(prompt).endswith("<think>\n")
        assert trained_texts(tokenizer, encoded.input_ids, encoded.labels) == [f"{said}<|im_end|>"]


def test_only_the_last_reply_has_the_prompt_that_it_is_asked_with() -> None:
    messages = [*chat("one"), *chat("two")]
    assert 'set train_on = "last"' in refused(OPENING, messages)
    assert trained(OPENING, messages, train="last") == ["\n</think>\n\ntwo<|im_end|>"]


def test_a_system_prompt_that_stands_in_the_last_question_only() -> None:
    tokenizer = byte_level(FORGETFUL)
    encoded = sound(chat_format(tokenizer), chat("yes", "is it?", "be brief"))
    assert tokenizer.decode(encoded.input_ids) == (
        "<|begin_of_text|><|im_start|>be brief\n\nis it?<|im_end|>yes<|eot_id|>"
    )
    assert "only the last one can be trained" in refused(FORGETFUL, [*chat("one", system="be brief"), *chat("two")])
    assert trained(FORGETFUL, [*chat("one"), *chat("two")]) == ["one<|eot_id|>", "two<|eot_id|>"]


def test_a_template_that_leaves_a_role_out() -> None:
    silent = CHATML.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    assert refused(silent, chat("yes", system="be brief")).startswith(
        "the chat template leaves out or changes message 1 (system)"
    )
    assert trained(silent, chat("yes")) == ["yes<|im_end|>"]


def test_replies_of_weight_0_are_not_trained() -> None:
    messages = [*chat("one"), *chat("two"), *chat("three")]
    messages[1]["weight"] = 0  # type: ignore[assignment]
    assert trained(CHATML, messages) == ["two<|im_end|>", "three<|im_end|>"]
    messages[5]["weight"] = 0  # type: ignore[assignment]
    assert trained(CHATML, messages, train="last") == ["two<|im_end|>"]
    messages[3]["weight"] = 0  # type: ignore[assignment]
    assert only(chat_format(byte_level(CHATML)), messages) == Refused(reason="no reply to train")


def of_model(name: str, messages: Any, train: Any = "all", variables: Any = None, **options: Any) -> list[str]:
    tokenizer = with_tokens(templates_of_trl()[f"{name}.jinja"])
    encoded = sound(chat_format(tokenizer, train=train, variables=variables), messages, **options)
    return trained_texts(tokenizer, encoded.input_ids, encoded.labels)


NAMED_ANSWER = {**ANSWER, "name": "weather"}


def test_each_reply_of_gpt_oss_has_the_end_that_its_template_writes() -> None:
    call = ' to=functions.weather<|channel|>commentary json<|message|>{"a": "Rome"}<|call|>'
    final = "<|channel|>final<|message|>"
    assert of_model("gptoss", [ASK, CALL, ANSWER, REPLY]) == [call, f"{final}it is sunny<|return|>"]
    assert of_model("gptoss", [*chat("one"), ASK, CALL]) == [f"{final}one<|end|>", call]
    assert of_model("gptoss", [*chat("one"), *chat("two")]) == [f"{final}one<|end|>", f"{final}two<|return|>"]
    thought = f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{final}yes<|return|>"
    thinking_call = {**CALL, "reasoning_content": "where?"}
    assert of_model("gptoss", [ASK, thinking_call, ANSWER, THOUGHT], "last") == [thought]
    two = {**CALL, "tool_calls": CALL["tool_calls"] * 2}  # type: ignore[operator]
    with pytest.raises(RowError, match="leaves out a tool call"):
        of_model("gptoss", [ASK, two])


def test_a_call_of_gemma_4_ends_where_the_answer_of_the_tool_begins() -> None:
    call = '<|tool_call>call:weather{a:<|"|>Rome<|"|>}<tool_call|>'
    assert of_model("gemma4_v5", [ASK, CALL, NAMED_ANSWER, REPLY]) == [
        f"{call}<|tool_response>",
        "it is sunny<turn|>",
    ]
    two = {**CALL, "tool_calls": CALL["tool_calls"] * 2}  # type: ignore[operator]
    assert of_model("gemma4_v5", [ASK, two]) == [f"{call}{call}<|tool_response>"]


def test_a_call_of_a_built_in_tool_of_llama_3_1_ends_with_its_own_token() -> None:
    call = '<|python_tag|>weather.call(a="Rome")<|eom_id|>'
    variables = {"builtin_tools": ("weather",)}
    assert of_model("llama3_1", [ASK, CALL, ANSWER, REPLY], variables=variables) == [call, "it is sunny<|eot_id|>"]
    assert of_model("llama3_1", [ASK, CALL])[0].endswith("}<|eot_id|>")


def test_answers_stop_at_the_ends_of_a_call_but_not_at_what_ends_a_thought_as_well() -> None:
    tokenizer = with_tokens(templates_of_trl()["gptoss.jinja"])
    format_ = chat_format(tokenizer)
    ends = (format_.end_of_turn, *format_.other_ends, *format_.inner_ends)
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|return|>", "<|call|>", "<|end|>"]
    plain = chat_format(byte_level(TOOLS))
    assert (plain.other_ends, plain.inner_ends) == (frozenset(), frozenset())


def test_what_ends_each_of_several_calls_does_not_end_the_reply() -> None:
    tokenizer = with_tokens(templates_of_trl()["deepseek_r1_distill.jinja"])
    assert not chat_format(tokenizer).other_ends
    with pytest.raises(RowError, match="which is no end of a turn; use another template"):
        only(chat_format(tokenizer), [ASK, CALL])


def test_deepseek_takes_the_arguments_of_a_call_as_text() -> None:
    [said] = [text.replace("\uff5c", "|").replace("\u2581", " ") for text in of_model("deepseekv3", [ASK, CALL])]
    assert said == (
        "\n</think>\n\n<|tool calls begin|><|tool call begin|>function<|tool sep|>weather\n"
        '```json\n{"a": "Rome"}\n```<|tool call end|><|tool calls end|><|end of sentence|>'
    )
    [said] = of_model("deepseekv3", [ASK, CALL, ANSWER, REPLY], "last")
    assert said.startswith("it is sunny<")


@pytest.mark.parametrize("arguments", ["call.function.arguments | string", "'' ~ call.function.arguments"])
def test_arguments_are_not_written_as_python_writes_them(arguments: str) -> None:
    texts = TOOLS.replace("call.function | tojson", f"call.function.name ~ ' ' ~ ({arguments})")
    assert trained(texts, [ASK, CALL]) == ['<call>weather {"a": "Rome"}</call><|im_end|>']


def test_a_template_that_takes_a_call_for_one_only_without_a_content() -> None:
    strict = TOOLS.replace("message.tool_calls or []", "(message.tool_calls if message.content is none else []) or []")
    strict = strict.replace("+ message['content']", "+ (message['content'] or '')")
    assert trained(strict, [ASK, CALL, ANSWER, REPLY]) == [f"{CALLED}<|im_end|>", "it is sunny<|im_end|>"]
    assert "leaves out a tool call" in refused(strict, [ASK, {**CALL, "content": "let me see"}])


def test_thoughts_that_the_template_does_not_ask_for() -> None:
    with pytest.raises(RowError, match=r"in another way than it asks for it; .* chat_template_kwargs"):
        of_model("qwen3_5_nothink", [ASK, THOUGHT])
    said = of_model("qwen3_5_nothink", [ASK, THOUGHT], variables={"enable_thinking": True})
    assert said == ["hm\n</think>\n\nyes<|im_end|>"]
