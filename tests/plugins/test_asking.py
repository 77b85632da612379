"""Rows that nobody has answered yet: their prompts are those of the rows with a reply."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chat_kit import CHATML, byte_level
from ftcore.api import Drop, Example, Format, Row, RowError, Rows, RunError
from ftcore.testing import make_config
from ftcore_plugins.chat import Chat
from ftcore_plugins.chat import Options as ChatOptions
from ftcore_plugins.llama_code import LlamaCode, Options
from grid_kit import make_format, make_processor, make_row, save
from tiny_kit import make_run

USER = {"role": "user", "content": "how?"}
REPLY = {"role": "assistant", "content": "so."}

FORMS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "messages": ({"messages": [USER, REPLY]}, {"messages": [USER]}),
    "turns": ({"messages": [USER, REPLY, USER, REPLY]}, {"messages": [USER, REPLY, USER]}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "how?"}, {"from": "gpt", "value": "so."}]},
        {"conversations": [{"from": "human", "value": "how?"}]},
    ),
    "instruction": ({"instruction": "how?", "input": "x", "output": "so."}, {"instruction": "how?", "input": "x"}),
    "null": ({"instruction": "how?", "output": "so."}, {"instruction": "how?", "output": None}),
    "empty": ({"question": "how?", "answer": "so."}, {"question": "how?", "answer": " "}),
    "question": (
        {"question": "how?", "answer": "so.", "system": "be brief"},
        {"question": "how?", "system": "be brief"},
    ),
    "completion": ({"prompt": "how?", "completion": "so."}, {"prompt": "how?"}),
    "completions": ({"prompt": [USER], "completion": [REPLY]}, {"prompt": [USER]}),
    "csv": ({"messages": [USER, REPLY]}, {"messages": '[{"role": "user", "content": "how?"}]'}),
    "no answer": ({"messages": [USER, REPLY]}, {"messages": [USER, {"role": "assistant", "content": ""}]}),
}


def own_replies(format_: Format, values: Mapping[str, Any] | Row) -> tuple[str, ...]:
    """The replies of the row itself, as `ask` tells them."""
    assert format_.ask is not None
    [made] = format_.ask([values if isinstance(values, Row) else row(values)])
    assert isinstance(made, Example), made
    return made.replies


def row(values: Mapping[str, Any]) -> Row:
    return Row(values=values, origin="rows.jsonl:1")


def chat(values: Mapping[str, Any], **options: Any) -> Format:
    rows = Rows(train=[row(values)], validation=[], fingerprint="f" * 64)
    return Chat(make_config(ChatOptions, options)).format_dataset(make_run(Path()), rows, byte_level(CHATML))


def prompt(format_: Format, values: Mapping[str, Any] | Row, *, whole: bool = False) -> list[int]:
    one = values if isinstance(values, Row) else row(values)
    assert format_.ask is not None
    [made] = (format_.encode if whole else format_.ask)([one])
    assert isinstance(made, Example), made
    return list(made.prompt_ids)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_chat(form: str) -> None:
    answered, open_row = FORMS[form]
    format_ = chat(answered)
    assert prompt(format_, open_row) == prompt(format_, answered, whole=True)
    assert prompt(format_, answered) == prompt(format_, answered, whole=True)
    assert own_replies(format_, open_row) == ()
    assert own_replies(format_, answered) == ("so.",)


@pytest.mark.parametrize("form", ["messages", "sharegpt", "instruction", "question", "completion"])
def test_a_text_alone_is_asked_in_the_form_of_the_rows(form: str) -> None:
    answered, open_row = FORMS[form]
    for options in ({}, {"format": form}):
        format_ = chat(answered, **options)
        assert format_.question is not None
        wanted = {key: value for key, value in open_row.items() if key not in ("input", "system")}
        assert prompt(format_, format_.question("how?", ())) == prompt(format_, wanted)
        with pytest.raises(RunError, match="--image: this run trains texts alone"):
            format_.question("how?", ["a.png"])


def test_where_everything_is_trained_the_last_reply_is_asked_for_all_the_same() -> None:
    answered, open_row = FORMS["turns"]
    assert prompt(chat(answered, train_on="everything"), open_row) == prompt(chat(answered), answered, whole=True)


def test_a_plain_text_is_gone_on_with() -> None:
    format_, tokenizer = chat({"text": "once upon"}), byte_level(CHATML)
    assert format_.question is not None
    assert tokenizer.decode(prompt(format_, format_.question("once upon", ()))) == "once upon"
    assert own_replies(format_, {"text": "once upon"}) == ()
    with pytest.raises(RunError, match="no place for an image"):
        format_.question("once", ["a.png"])


@pytest.mark.parametrize("values", [{"foo": 1}, {"messages": []}, {"messages": "no list"}, {"instruction": 5}])
def test_a_row_that_asks_nothing_is_an_error_with_its_place(values: Mapping[str, Any]) -> None:
    with pytest.raises(RowError, match=r"^rows\.jsonl:1: "):
        prompt(chat(FORMS["messages"][0]), values)


def test_code_is_asked_for_whatever_is_dropped_in_training() -> None:
    plugin = LlamaCode(Options(require_parse=True, strip_fences=True))
    format_ = plugin.format_dataset(make_run(Path()), byte_level(CHATML))
    answered = {"instruction": "add", "input": "ints", "output": "def add(a, b): return a + b"}
    assert prompt(format_, {"instruction": "add", "input": "ints"}) == prompt(format_, answered, whole=True)
    assert prompt(format_, {**answered, "output": "no python ("}) == prompt(format_, answered, whole=True)
    assert format_.question is not None
    assert format_.question("add", ()) == {"instruction": "add"}
    pickle.loads(pickle.dumps(format_.ask))


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor()


def test_a_grid_without_its_action(tmp_path: Path, processor: Any) -> None:
    whole = make_row(tmp_path)
    format_ = make_format(make_run(tmp_path), [whole], processor)
    open_row = make_row(tmp_path, action=None)
    assert prompt(format_, open_row) == prompt(format_, whole, whole=True)
    assert own_replies(format_, open_row) == ()
    assert len(own_replies(format_, whole)) == 1


def test_a_text_about_four_frames_or_a_grid(tmp_path: Path, processor: Any) -> None:
    whole = make_row(tmp_path)
    format_ = make_format(make_run(tmp_path), [whole], processor)
    assert format_.question is not None
    assert format_.ask is not None
    frames = whole.values["frames"]
    asked = Row(values=format_.question(whole.values["context"], frames), origin="--prompt", folder=tmp_path)
    assert prompt(format_, asked) == prompt(format_, whole, whole=True)
    [example] = format_.ask([asked])
    assert isinstance(example, Example)
    assert example.features["images"] == frames
    grid = save(tmp_path, "grid.png", size=(96, 64))
    values = format_.question("go", [grid])
    assert values == {"image": grid, "question": "go", "context": ""}
    assert prompt(format_, Row(values=values, origin="--prompt", folder=tmp_path))


@pytest.mark.parametrize(("template", "column"), [("{context}", "context"), ("{question} now", "question")])
def test_the_text_goes_where_the_prompt_has_a_place(tmp_path: Path, processor: Any, template: str, column: str) -> None:
    grid = save(tmp_path, "grid.png", size=(96, 64))
    format_ = make_format(make_run(tmp_path), [make_row(tmp_path)], processor, {"prompt": template})
    assert format_.question is not None
    assert format_.question("go", [grid])[column] == "go"


def test_pictures_and_texts_that_have_no_place_are_refused(tmp_path: Path, processor: Any) -> None:
    whole = make_row(tmp_path)
    format_ = make_format(make_run(tmp_path), [whole], processor)
    assert format_.question is not None
    for images in ((), ("a.png", "b.png")):
        with pytest.raises(RunError, match=rf"one ready grid, or 4 frames, oldest first, not {len(images)} images"):
            format_.question("go", images)
    fixed = make_format(make_run(tmp_path), [whole], processor, {"prompt": "what now?"})
    assert fixed.question is not None
    with pytest.raises(RunError, match="has a place for neither question nor context"):
        fixed.question("go", ["a.png"])


def test_a_picture_that_is_none_names_the_row(tmp_path: Path, processor: Any) -> None:
    format_ = make_format(make_run(tmp_path), [make_row(tmp_path)], processor)
    assert format_.ask is not None
    (tmp_path / "text.png").write_text("no picture")
    assert format_.question is not None
    asked = Row(values=format_.question("go", ["text.png"]), origin="--prompt", folder=tmp_path)
    with pytest.raises(RowError, match=r"^--prompt: image 'text\.png' is none of"):
        list(format_.ask([asked]))
    assert not isinstance(next(iter(format_.ask([make_row(tmp_path, action=None)]))), Drop)
