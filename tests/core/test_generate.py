"""`ftcore generate`: the model of a run answers rows, a question, or line after line."""

from __future__ import annotations

import io
import json

import pytest

from ftcore import engine


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.replace("max_steps = 10", "max_steps = 4")
    return engine.run(desk.load()).folder


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_rows_without_a_reply(desk, folder, ftcore):
    desk.write('{"prompt": "one?"}\n{"prompt": "two?", "reply": "2"}\n', "new.jsonl")
    code, out, err = ftcore("generate", folder, "--data", desk.folder / "new.jsonl", "--quiet")
    assert (code, err) == (0, "")
    first, second = lines(out)
    weight = json.loads((folder / "adapter" / "weight.json").read_text())["weight"]
    assert first["answer"] == f"{weight:.3f} to new.jsonl:1"
    assert (first["prompt"], first["tokens"], first["batch"]) == ("one?", len(first["answer"]), 2)
    assert first["seconds_per_row"] == pytest.approx(first["seconds"] / 2, abs=1e-6)
    assert second["origin"] == "new.jsonl:2"


def test_a_single_question(folder, ftcore):
    code, out, err = ftcore("generate", folder, "--prompt", "how?", "--quiet", "--base")
    assert (code, out, err) == (0, "1.000 to --prompt\n", "")


def test_lines_from_a_pipe(folder, ftcore, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    code, out, _ = ftcore("generate", folder, "--quiet", "--json")
    assert (code, [line["prompt"] for line in lines(out)]) == (0, ["one", "two"])
