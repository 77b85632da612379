"""The plugin `chat` and the engine: proof, processes, and what its answer is kept by."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from chat_cases import templates_of_trl
from chat_kit import CHATML, LLAMA3, byte_level, trained_texts, with_tokens
from ftcore.api import Example, Format, Row, Rows, RunError
from ftcore.testing import formatted, make_run, prove_labels
from ftcore_plugins.chat import Chat, Options

ASKED = [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"}]


def row(number: int = 1, **values: Any) -> Row:
    return Row(values=values, origin=f"rows.jsonl:{number}")


def format_of(*rows: Row, tokenizer: Any = None, **options: Any) -> Format:
    given = Rows(train=rows, validation=(), fingerprint="")
    return Chat(Options(**options)).format_dataset(make_run(Path()), given, tokenizer or byte_level(CHATML))


@pytest.mark.parametrize("options", [{}, {"train_on": "last"}, {"train_on": "everything"}, {"format": "text"}])
def test_the_engine_formats_and_proves_what_the_plugin_answers(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = [
        row(n, messages=[*ASKED, *ASKED[:1], {"role": "assistant", "content": f"no {n}"}], text=f"x {n}")
        for n in range(70)
    ]
    rows += [
        row(70, messages=ASKED[:1], text="y"),
        row(71, messages=[*ASKED[:1], {"role": "assistant", "content": ""}], text=""),
    ]
    run = make_run(tmp_path, data={"validation": 0.0, "max_bad_rows": 1})
    tokenizer = byte_level(CHATML)
    format_ = format_of(*rows, tokenizer=tokenizer, **options)
    data = formatted(run, format_, rows)
    reasons = {"empty text": 1} if options.get("format") else {"empty reply": 1}
    assert {reason: count for reason, count in data.ledger.reasons.items() if reason.startswith("empty")} == reasons
    assert prove_labels(data, format_.processor, 0) > 60


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"a": "Rome"}'}}]}
TALKS: list[list[dict[str, Any]]] = [
    [*ASKED, ASKED[0], CALL, {"role": "tool", "name": "weather", "content": "sunny"}, {**ASKED[1], "content": "no"}],
    [ASKED[0], CALL],
    [*ASKED, *ASKED],
]


@pytest.mark.parametrize(
    ("name", "variables", "talks", "ends"),
    [
        ("gptoss", {}, TALKS, {"<|end|>", "<|call|>", "<|return|>"}),
        ("gemma4_v5", {}, TALKS, {"<|tool_response>", "<turn|>"}),
        ("llama3_1", {"builtin_tools": ("weather",)}, TALKS, {"<|eom_id|>", "<|eot_id|>"}),
        ("smolvlm", {}, TALKS[2:], {"<end_of_utterance>"}),
    ],
)
def test_the_engine_proves_every_end_of_a_template(
    tmp_path: Path, name: str, variables: dict[str, Any], talks: list[Any], ends: set[str]
) -> None:
    rows = [row(number, messages=talk) for number, talk in enumerate(talks)]
    tokenizer = with_tokens(templates_of_trl()[f"{name}.jinja"])
    tokenizer.pad_token = "<eos>"
    format_ = format_of(*rows, tokenizer=tokenizer, chat_template_kwargs=variables)
    data = formatted(make_run(tmp_path, data={"validation": 0.0}), format_, rows)
    assert prove_labels(data, format_.processor, 0) == len(talks)
    spans = [trained_texts(tokenizer, each.input_ids, each.labels) for each in data.train]
    trained = [
        (text, reply)
        for texts, each in zip(spans, data.train, strict=True)
        for text, reply in zip(texts, each.replies, strict=True)
    ]
    assert {text.removeprefix(reply) for text, reply in trained} == ends
    for field in ("other_ends", "inner_ends") if len(ends) > 1 else ():
        if getattr(data, field):
            with pytest.raises(RunError, match="the model would never stop"):
                prove_labels(attrs.evolve(data, **{field: frozenset()}), format_.processor, 0)


def test_the_fingerprint_tells_templates_and_tokenizers_apart() -> None:
    one = row(messages=ASKED)
    tokenizers = [byte_level(CHATML), byte_level(CHATML), byte_level(LLAMA3), byte_level(CHATML, regex=False)]
    tokenizers.append(byte_level(CHATML, pad="<|im_end|>"))
    found = [format_of(one, tokenizer=tokenizer).fingerprint for tokenizer in tokenizers]
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert all(len(each) == 64 for each in found)


CHILD = """
import pickle, sys
rows, encode = pickle.load(sys.stdin.buffer)
answers = [(list(answer.input_ids), list(answer.labels)) for answer in encode(rows)]
import json; print(json.dumps([answers, "torch" in sys.modules]))
"""


@pytest.mark.parametrize("options", [{}, {"format": "text"}])
def test_another_process_formats_the_same_without_torch(options: dict[str, Any]) -> None:
    rows = [row(n, messages=ASKED, text="yes") for n in range(3)]
    encode = format_of(*rows, **options).encode
    code = subprocess.run(
        [sys.executable, "-c", CHILD], input=pickle.dumps((rows, encode)), stdout=subprocess.PIPE, check=True
    )
    answers, torch = json.loads(code.stdout)
    assert answers == [[list(one.input_ids), list(one.labels)] for one in encode(rows) if isinstance(one, Example)]
    assert not torch
