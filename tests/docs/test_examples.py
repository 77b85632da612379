"""The plugins and tests that the documentation shows work as they stand there."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import REPOSITORY, Block, blocks

from ftcore.api import Example, Format, Row, RowError
from ftcore.testing import formatted, make_run, plugin_faults, prove_labels

PLUGINS = [block for block in blocks("python") if "Config = " in block.text]


def _module(text: str) -> types.ModuleType:
    module = types.ModuleType("shown")
    sys.modules["shown"] = module  # attrs resolves the types of a Config in its module
    exec(compile(text, "shown.py", "exec"), vars(module))
    return module


@pytest.mark.parametrize("block", PLUGINS, ids=str)
def test_plugin_fits(block: Block) -> None:
    classes = [
        value for value in vars(_module(block.text)).values() if inspect.isclass(value) and "Config" in vars(value)
    ]
    assert [plugin_faults(cls) for cls in classes] == [[]]


def test_shown_tests_pass(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "plugins.md"
    (plugin,) = [block for block in PLUGINS if block.page == page]
    (tests,) = [block for block in blocks("python") if block.page == page and "def test_" in block.text]
    module = _module(f"{plugin.text}\n{tests.text}")
    names = [node.name for node in ast.parse(tests.text).body if isinstance(node, ast.FunctionDef)]
    assert len(names) == 3
    for name in names:
        function: Any = getattr(module, name)
        function(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(function).parameters else {}))


class Letters:
    """As much of a tokenizer as the shown formatter and the proof need: a token is a letter."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, ids))


def _arrays(examples: Sequence[Example]) -> dict[str, Any]:
    """Rows of one length, which need no padding."""
    ids, labels = np.array([e.input_ids for e in examples]), np.array([e.labels for e in examples])
    return {"input_ids": ids, "labels": labels, "attention_mask": np.ones_like(ids)}


def test_shown_encoder_is_proved_and_its_dropped_row_counted(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("python") if "class Encode" in block.text]
    letters = Letters()
    encode = _module(block.text).Encode(tokenizer=letters, end_of_turn=0)
    format_ = Format(encode=encode, collate=_arrays, processor=letters, end_of_turn=0)
    answers = ["", *"abcdefgh"]
    rows = [Row(values={"question": f"{answer}?", "answer": answer}, origin=f"a.jsonl:{answer}") for answer in answers]
    data = formatted(make_run(tmp_path, data={"validation": 0.2}), format_, rows)
    prove_labels(data, letters, seed=1)
    assert [(drop.origin, drop.reason) for drop in data.ledger.dropped] == [("a.jsonl:", "no answer")]
    with pytest.raises(RowError, match="question and answer must be texts"):
        encode([Row(values={"question": "why?"}, origin="a.jsonl:10")])


def test_acme_readme_names_its_plugins() -> None:
    import tomllib

    folder = REPOSITORY / "examples" / "ftcore-acme"
    points = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["ftcore.plugins"]
    text = (folder / "README.md").read_text("utf-8")
    assert all(f"| `{name}` |" in text for name in points)
