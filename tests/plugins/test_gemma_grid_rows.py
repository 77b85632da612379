"""Columns, actions and scores of `gemma_grid`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftcore.api import Example, Prediction, Row, RowError
from ftcore_plugins.gemma_grid import Options
from ftcore_plugins.gemma_grid.action import ActionError, action_of, answered, written
from ftcore_plugins.gemma_grid.columns import Columns, Turn
from ftcore_plugins.gemma_grid.prompt import DEFAULT_PROMPT, question_of, unknown_places
from grid_kit import make_plugin

BASE = {"frames": ["a", "b", "c", "d"], "context": "x", "action": "left"}


def columns(**options: Any) -> Columns:
    config = Options(**options)
    names = ("frames", "image", "context", "question", "action", "action_key", "keys")
    return Columns(**{name: getattr(config, name) for name in names})


def turn(values: dict[str, Any], **options: Any) -> Turn:
    return columns(**options).turn(Row(values=values, origin="rows.jsonl:7"))


def refused(values: dict[str, Any], **options: Any) -> str:
    with pytest.raises(RowError) as caught:
        turn(values, **options)
    assert caught.value.origin == "rows.jsonl:7"
    return caught.value.reason


# Rows


def test_frames() -> None:
    read = turn({**BASE, "question": "q"})
    assert read == Turn(images=("a", "b", "c", "d"), context="x", question="q", reply='{"button": "left"}')


def test_row_of_the_guide() -> None:
    row = {
        "image": "grid_images/000001.png",
        "context": "You play a game.",
        "question": "What next?",
        "output": '{"button": "right", "action": "press", "reasoning": "north_path"}',
    }
    read = turn(row)
    assert read.images == ("grid_images/000001.png",)
    assert read.reply == '{"button": "right", "action": "press", "reasoning": "north_path"}'


def test_first_of_several_columns() -> None:
    assert turn({**BASE, "image": "grid.png"}).images == ("a", "b", "c", "d")
    assert turn({**BASE, "frames": None, "grid": "grid.png"}).images == ("grid.png",)
    assert turn({**BASE, "output": "right"}).reply == '{"button": "left"}'
    assert turn({**BASE, "output": "right"}, action="output").reply == '{"button": "right"}'
    assert turn({"pics": list("abcd"), "says": "x", "does": "up"}, frames="pics", context="says", action="does")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frames": None}, "no column 'frames' or 'image' or 'grid'; the row has frames, context, action"),
        ({"frames": "a.png"}, "column 'frames' must be a list of paths, not str"),
        ({"frames": ["a", "b", "c"]}, "column 'frames' must have 4 paths, oldest first, not 3"),
        ({"frames": ["a", "b", "c", None]}, "column 'frames' must hold paths, not NoneType"),
        ({"frames": None, "image": ["a"]}, "column 'image' must be the path of a grid, not list"),
        ({"context": None}, "no column 'context'"),
        ({"context": 3}, "column 'context' must be a text, not int"),
        ({"question": {"a": 1}}, "column 'question' must be a text, not dict"),
        ({"action": None}, "no column 'action' or 'output'"),
        ({"action": 3}, "column 'action' must be an object, its JSON text or a word, not int"),
        ({"action": {}}, "column 'action' has no 'button'; it has nothing"),
        ({"action": {"key": "left"}}, "column 'action' has no 'button'; it has 'key'"),
        ({"action": {"button": 3}}, "column 'action' must have a text as its 'button', not 3"),
        ({"action": {"button": " "}}, "column 'action' must have a text"),
        ({"action": ""}, "column 'action' must be a word"),
        ({"action": "left\nright"}, "column 'action' must be a word"),
        ({"action": '{"button": "left"'}, "column 'action' holds broken JSON"),
        ({"action": '["left"]'}, "column 'action' must be an object"),
        ({"action": '{"button": "a", "button": "b"}'}, "column 'action' holds broken JSON (a key is there twice)"),
        ({"action": '{"button": "a", "hold": NaN}'}, "column 'action' holds broken JSON (NaN is not JSON)"),
        ({"action": {"button": "a", "hold": float("inf")}}, "column 'action' cannot be written as JSON"),
    ],
)
def test_wrong_rows(change: dict[str, Any], reason: str) -> None:
    assert refused({**BASE, **change}).startswith(reason)


# Actions


def test_key_order_is_stable() -> None:
    one = written({"z": {"b": 1, "a": [2, {"d": 1, "c": 2}]}, "button": "é", "a": None}, "button", ())
    two = written({"a": None, "button": "é", "z": {"a": [2, {"c": 2, "d": 1}], "b": 1}}, "button", ())
    assert one == two == '{"button": "é", "a": null, "z": {"a": [2, {"c": 2, "d": 1}], "b": 1}}'


def test_listed_keys() -> None:
    action = {"why": "door", "button": "a", "hold": 2}
    assert written(action, "button", ("hold", "button", "gone")) == '{"hold": 2, "button": "a"}'


def test_bare_word() -> None:
    assert action_of(" press A ", "move") == {"move": "press A"}
    with pytest.raises(ActionError):
        action_of('"left"', "button")


def test_answers() -> None:
    assert answered(' {"button": "a"}\n') == {"button": "a"}
    for text in ("", "left", "[1]", '"a"', '{"a": 1', '{"a": NaN}', '{"a": 1} {"a": 2}', "[" * 100_000):
        assert answered(text) is None


# Prompt


def test_lines_without_content_are_left_out() -> None:
    assert question_of("a\n{context}\n{question}\nb", "c", "") == "a\nc\nb"
    assert question_of("{context} {question}", " ", "q") == "q"
    assert (
        question_of('{context}: {"button": "x"} {other}', "c {question}", "q")
        == 'c {question}: {"button": "x"} {other}'
    )


def test_default_prompt_says_the_order() -> None:
    text = question_of(DEFAULT_PROMPT, "Battle.", "Which button?")
    assert "1 top left (the oldest)" in text
    assert text.splitlines()[1:3] == ["Battle.", "Which button?"]
    assert not unknown_places(DEFAULT_PROMPT)


# Score


def prediction(target: str, answer: str) -> Prediction:
    reply = json.dumps({"button": target, "hold": 1})
    example = Example(input_ids=[1], labels=[1], replies=(reply,), origin="x")
    return Prediction(example=example, answer=answer)


def test_score() -> None:
    scores = make_plugin().score(
        [
            prediction("left", '{"hold": 1, "button": "left"}'),
            prediction("left", '{"button": "right", "hold": 1}'),
            prediction("left", '{"button": "jump"}'),
            prediction("right", '{"button": "right"}'),
            prediction("a/b", "right"),
            prediction("right", '{"hold": 1}'),
        ]
    )
    assert scores == {
        "valid_json": 5 / 6,
        "button_accuracy": 2 / 6,
        "exact": 1 / 6,
        "commonest_share": 3 / 6,
        "target/a/b": 1.0,
        "target/left": 3.0,
        "target/right": 2.0,
        "predicted/a/b": 0.0,
        "predicted/left": 1.0,
        "predicted/right": 2.0,
        "predicted/(other)": 1.0,
        "predicted/(invalid)": 2.0,
        "confusion/a/b/(invalid)": 1.0,
        "confusion/left/(other)": 1.0,
        "confusion/left/left": 1.0,
        "confusion/left/right": 1.0,
        "confusion/right/(invalid)": 1.0,
        "confusion/right/right": 1.0,
    }


def test_score_of_another_key() -> None:
    reply = '{"move": "up"}'
    example = Example(input_ids=[1], labels=[1], replies=(reply,), origin="x")
    scores = make_plugin(action_key="move").score([Prediction(example=example, answer=reply)])
    assert scores is not None
    assert scores["move_accuracy"] == scores["exact"] == scores["commonest_share"] == 1.0


def test_nothing_to_score() -> None:
    assert make_plugin().score([]) is None
