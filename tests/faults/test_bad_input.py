"""Bad input through the command line, with the plugins that come in the box: one sentence with the fix, exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcore.cli import main

PROFILE = """\
[run]
output_dir = "runs"

[hardware]
profile = "cpu"

[data]
path = "rows.jsonl"

[train]
max_steps = 2

[plugin.llama_code]

[plugin.tiny_model]
"""
ROW = json.dumps({"instruction": "add", "output": "def add(a, b):\n    return a + b"}) + "\n"

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`ftcore check` on a profile beside its rows; the complaints, one a line."""
    monkeypatch.chdir(tmp_path)

    def run(profile: str = PROFILE, rows: bytes | None = ROW.encode(), *arguments: str) -> list[str]:
        (tmp_path / "profile.toml").write_text(profile, "utf-8")
        if rows is not None:
            (tmp_path / "rows.jsonl").write_bytes(rows)
        code = main(["check", "profile.toml", *arguments])
        said = capsys.readouterr().err.splitlines()
        assert (code == 0) == (not said), said
        assert code in (0, 2), said
        assert not any("Traceback" in line for line in said)
        return said

    return run


def test_good_input_is_ready(check: Check) -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = true", "profile.toml:2: run.seed: expected a whole number, got True (a boolean)"),
        ('seed = "42"', "profile.toml:2: run.seed: expected a whole number, got '42' (a string)"),
        ("seed = 3.9", "profile.toml:2: run.seed: expected a whole number, got 3.9 (a number)"),
        ("seed = -1", "profile.toml:2: run.seed: must be >= 0, got -1 (a whole number)"),
        ("sed = 1", "profile.toml:2: run.sed: unknown key; did you mean 'seed'?"),
        ("name = ['a']", "profile.toml:2: run.name: expected a string, got ['a'] (a list)"),
        ("seed = ", "profile.toml:2: not valid TOML: invalid value"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(check: Check, line: str, message: str) -> None:
    assert check(PROFILE.replace('output_dir = "runs"', line)) == [message]


def test_every_mistake_is_reported_at_once(check: Check) -> None:
    bad = PROFILE.replace("max_steps = 2", 'max_steps = "2"\nlearning_rate = nan\nactivation_checkpointing = "false"')
    said = check(bad.replace("[plugin.tiny_model]", "[plugin.tinny_model]"))
    assert said == [
        "profile.toml:11: train.max_steps: expected a whole number, got '2' (a string)",
        "profile.toml:12: train.learning_rate: expected a finite number, got nan",
        "profile.toml:13: train.activation_checkpointing: expected true or false, got 'false' (a string)",
        "profile.toml:17: plugin.tinny_model: no such plugin; did you mean 'tiny_model'?",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"\n\n \n", "blank"),
        (ROW.encode() * 40 + b'{"instruction": \n', "rows.jsonl:41"),
        (ROW.encode() + b'{"instruction": "a", "output": "\xff"}\n', "rows.jsonl:2"),
        (ROW.encode("utf-16"), "UTF-16"),
        (ROW.encode() + b'["a list"]\n', "rows.jsonl:2"),
        (ROW.encode() + b'{"output": "a", "output": "b"}\n', "rows.jsonl:2"),
    ],
    ids=["missing", "empty", "blank", "broken at 41", "not utf-8", "utf-16", "no object", "duplicate key"],
)
def test_a_data_file_is_named_with_its_line(check: Check, rows: bytes | None, message: str) -> None:
    (said,) = check(PROFILE, rows)
    assert message in said


def test_a_model_folder_without_tokenizer(check: Check, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    profile = PROFILE.replace("[plugin.tiny_model]", "").replace("[data]", '[model]\nid = "./model"\n\n[data]')
    (said,) = check(profile)
    assert said.startswith("profile.toml:8: model.id: ")
    assert "has no tokenizer" in said


def test_two_loaders_are_one_too_many(check: Check) -> None:
    assert check(f"{PROFILE}\n[plugin.huggingface]\n") == [
        "profile.toml:17: plugin.huggingface: load_processor is implemented by tiny_model and huggingface; keep one",
        "profile.toml:17: plugin.huggingface: sketch_model is implemented by tiny_model and huggingface; keep one",
        "profile.toml:17: plugin.huggingface: load_model is implemented by tiny_model and huggingface; keep one",
    ]


def test_a_slip_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "profile.toml").write_text(PROFILE)
    assert main(["check", "profile.toml", "--set=train.learning_rate=0.5"]) == 0
    assert "warning: train.learning_rate: 0.5 is unusually high" in capsys.readouterr().err
