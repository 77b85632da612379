from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from chat_kit import CHATML, THINKING, byte_level
from ftcore import testing
from ftcore.api import Drop, Example, Format, Prediction, PreparedData, Row, RowError, RunError
from ftcore.testing import make_run, prove_labels
from ftcore_plugins.llama_code import LlamaCode, Options, defined_names, unfenced

ADD = "def add(a, b):\n    return a + b"
FENCED = f"Here it is:\n\n```python\n{ADD}\n```\nDone."


def row(number: int = 1, **values: Any) -> Row:
    return Row(values={"instruction": "add two numbers", "output": ADD, **values}, origin=f"rows.jsonl:{number}")


def format_of(tokenizer: Any = None, **options: Any) -> Format:
    return LlamaCode(Options(**options)).format_dataset(make_run(Path()), tokenizer or byte_level(CHATML))


@pytest.fixture
def formatted(tmp_path: Path) -> Any:
    def formatted(*rows: Row, tokenizer: Any = None, **options: Any) -> PreparedData:
        run = make_run(tmp_path, data={"validation": 0.0})
        return testing.formatted(run, format_of(tokenizer, **options), rows)

    return formatted


def text(example: Example) -> str:
    return str(byte_level(CHATML).decode(example.input_ids))


def only(one: Row, **options: Any) -> str:
    [example] = format_of(**options).encode([one])
    assert isinstance(example, Example)
    return text(example)


def test_a_row_becomes_a_chat_with_its_reply_trained(formatted: Any) -> None:
    data = formatted(row())
    assert (
        text(data.train[0]) == f"<|im_start|>user\nadd two numbers<|im_end|>\n<|im_start|>assistant\n{ADD}<|im_end|>\n"
    )
    assert data.train[0].replies == (ADD,)
    assert data.train[0].origin == "rows.jsonl:1"
    assert data.end_of_turn == byte_level().convert_tokens_to_ids("<|im_end|>")


def test_the_engines_proof_accepts_the_labels_and_refuses_them_shifted(formatted: Any) -> None:
    tokenizer = byte_level(CHATML, pad="<|im_end|>")
    data = formatted(row(1), row(2, output=ADD * 9), row(3, system="be brief"), tokenizer=tokenizer)
    assert prove_labels(data, tokenizer, seed=0) == 3
    wrong = [attrs.evolve(one, labels=[*one.labels[1:], -100]) for one in data.train]
    with pytest.raises(RunError):
        prove_labels(attrs.evolve(data, train=wrong), tokenizer, seed=0)


def test_the_batch_is_padded_with_the_tokenizers_token(formatted: Any) -> None:
    data = formatted(row(1), row(2, output="x"))
    batch = data.collate(data.train)
    assert batch["input_ids"][1, -1] == byte_level().pad_token_id
    assert batch["labels"][1, -1] == -100


def test_a_processor_is_asked_for_its_tokenizer(formatted: Any) -> None:
    assert formatted(row(), tokenizer=SimpleNamespace(tokenizer=byte_level(CHATML))).ledger.trained == 1


def test_the_optional_input_follows_the_instruction() -> None:
    assert "user\nadd two numbers\n\n1 and 2<|im_end|>" in only(row(input="1 and 2"))
    assert "user\nadd two numbers<|im_end|>" in only(row(input=""))
    assert "user\nadd two numbers<|im_end|>" in only(row(input=None))


def test_option_instruction() -> None:
    assert "user\nsubtract<|im_end|>" in only(row(task="subtract"), instruction="task")


def test_option_input() -> None:
    assert "add two numbers\n\n3" in only(row(input="9", context="3"), input="context")


def test_option_output() -> None:
    assert "assistant\nx = 1<|im_end|>" in only(row(code="x = 1"), output="code")


def test_option_system() -> None:
    assert only(row(system="be brief")).startswith("<|im_start|>system\nbe brief<|im_end|>")
    assert only(row(system="be brief", role="be loud"), system="role").startswith("<|im_start|>system\nbe loud<")


def test_option_system_prompt() -> None:
    assert only(row(), system_prompt="be brief").startswith("<|im_start|>system\nbe brief<")
    assert only(row(system="be loud"), system_prompt="be brief").startswith("<|im_start|>system\nbe loud<")
    assert only(row()).startswith("<|im_start|>user")


def test_option_strip_fences(formatted: Any) -> None:
    assert formatted(row(output=FENCED)).train[0].replies == (FENCED,)
    assert formatted(row(output=FENCED), strip_fences=True).train[0].replies == (ADD,)
    assert formatted(row(), strip_fences=True).train[0].replies == (ADD,)


def test_option_require_parse(formatted: Any) -> None:
    rows = [row(1), row(2, output="def add(:"), row(3, output="x = '\\d'"), row(4, output="x\0")]
    assert formatted(*rows).ledger.trained == 4
    data = formatted(*rows, require_parse=True)
    dropped = tuple(Drop(origin=f"rows.jsonl:{line}", reason="does not parse") for line in (2, 4))
    assert data.ledger.dropped == dropped


def test_require_parse_looks_at_what_is_trained(formatted: Any) -> None:
    with pytest.raises(RunError, match="does not parse"):
        formatted(row(output=FENCED), require_parse=True)
    assert formatted(row(output=FENCED), require_parse=True, strip_fences=True).ledger.trained == 1


def test_option_chat_template(formatted: Any) -> None:
    tokenizer = byte_level(None)
    with pytest.raises(RunError, match="no chat template"):
        format_of(tokenizer)
    format_ = format_of(tokenizer, chat_template="llama3")
    [example] = format_.encode([row()])
    assert text(example).startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nadd")
    assert "eot_id" in format_.processor.chat_template, "the tuned model must be shipped with the template"
    assert tokenizer.chat_template is None, "the processor that was given is not ours to change"


def test_option_chat_template_path(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, "utf-8")
    format_ = format_of(byte_level(None), chat_template_path=file)
    assert format_.processor.chat_template == CHATML
    [problem] = LlamaCode(Options(chat_template_path=tmp_path / "none.jinja")).check()
    assert problem.key == "plugin.llama_code.chat_template_path"


def test_option_chat_template_kwargs() -> None:
    tokenizer = byte_level("{{ mood }}" + CHATML)
    [example] = format_of(tokenizer, chat_template_kwargs={"mood": "dry"}).encode([row()])
    assert text(example).startswith("dry<|im_start|>")
    [problem] = LlamaCode(Options(chat_template_kwargs={"tools": True})).check()
    assert problem.key == "plugin.llama_code.chat_template_kwargs.tools"


def test_rows_that_are_not_trained_are_counted(formatted: Any) -> None:
    rows = [
        row(1),
        row(2, output=""),
        row(3, output="a<|im_end|>b"),
        row(4, instruction="<|eot_id|>"),
        row(5, output=" "),
    ]
    data = formatted(*rows)
    assert (data.ledger.rows, data.ledger.trained) == (5, 1)
    assert data.ledger.reasons == {"empty reply": 2, "contains control tokens": 2}
    assert [drop.origin for drop in data.ledger.dropped] == [f"rows.jsonl:{line}" for line in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": None}, "column 'output' must be a text, not null"),
        ({"output": 3}, "column 'output' must be a text, not a number"),
        ({"instruction": ["x"]}, "column 'instruction' must be a text, not a list"),
        ({"input": 3}, "column 'input' must be a text, not a number"),
        ({"system": {}}, "column 'system' must be a text, not an object"),
    ],
)
def test_a_wrong_column_names_the_row(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=rf"^rows\.jsonl:7: {message}"):
        format_of().encode([row(1), row(7, **values)])


def test_a_missing_column_names_the_row_and_those_there_are() -> None:
    with pytest.raises(RowError, match=r"^rows\.jsonl:1: no column 'code'; the row has instruction, output$"):
        format_of(output="code").encode([row()])


def predictions(*pairs: tuple[str, str]) -> list[Prediction]:
    examples = [Example(input_ids=[1], labels=[1], replies=(reply,), origin="x") for reply, _ in pairs]
    return [Prediction(example=one, answer=answer) for one, (_, answer) in zip(examples, pairs, strict=True)]


def test_score() -> None:
    scores = LlamaCode(Options()).score(
        predictions(
            (ADD, ADD),
            (ADD, "def add(x):\n    pass"),
            (ADD, "def sub(x):\n    pass"),
            (ADD, "def add(x"),
        )
    )
    assert scores == {"parses": 0.75, "defines_name": 0.5, "exact": 0.25}


def test_score_looks_into_a_fence_and_at_hostile_answers() -> None:
    plugin = LlamaCode(Options())
    assert plugin.score(predictions((ADD, FENCED))) == {"parses": 1, "defines_name": 1, "exact": 0}
    for answer in ("", "  \n", "\0", "\ud800", "(" * 100_000, "-" * 100_000 + "1"):
        assert plugin.score(predictions((ADD, answer))) == {"parses": 0, "defines_name": 0, "exact": 0}


def test_score_is_on_the_last_reply() -> None:
    example = Example(input_ids=[1], labels=[1], replies=("x = 1", ADD), origin="x")
    scores = LlamaCode(Options()).score([Prediction(example=example, answer=ADD)])
    assert scores == {"parses": 1, "defines_name": 1, "exact": 1}


def test_score_leaves_out_what_the_template_says_before_a_reply(formatted: Any) -> None:
    [example] = formatted(row(), tokenizer=byte_level(THINKING)).train
    assert example.replies == (f"<think>\n\n</think>\n\n{ADD}",)
    for answer in (example.replies[0], ADD):
        scores = LlamaCode(Options()).score([Prediction(example=example, answer=answer)])
        assert scores == {"parses": 1, "defines_name": 1, "exact": 1}


def test_score_without_names_or_answers() -> None:
    plugin = LlamaCode(Options())
    assert plugin.score(predictions(("x = 1", "x = 1"))) == {"parses": 1, "exact": 1}
    assert plugin.score([]) is None


def test_names_that_code_defines() -> None:
    assert defined_names("class A:\n    def f(self): ...\nasync def g(): ...\ndef h(): ...") == ["A", "g", "h"]
    assert defined_names("def (") == []


@pytest.mark.parametrize(
    ("fenced", "code"),
    [
        ("```python\nx\n```", "x"),
        ("```\nx\n\ny\n```", "x\n\ny"),
        ("```py\nx\n```\n```py\ny\n```", "x"),
        ("a `b` c", "a `b` c"),
        ("```python\nx", "```python\nx"),
        ("```python\n```", ""),
    ],
)
def test_fences(fenced: str, code: str) -> None:
    assert unfenced(fenced) == code


def test_check_refuses_columns_of_one_name() -> None:
    assert LlamaCode(Options()).check() == []
    [problem] = LlamaCode(Options(output="instruction")).check()
    assert problem.key == "plugin.llama_code.output"
    assert "is instruction as well" in problem.message
    [problem] = LlamaCode(Options(instruction=" ")).check()
    assert problem.key == "plugin.llama_code.instruction"
