"""`ftcore generate`: the model of a run answers rows, a question, or line after line."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from ftcore import engine
from ftcore.locks import locked


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.replace("max_steps = 10", "max_steps = 4")
    return engine.run(desk.load()).folder


@pytest.fixture
def rows(desk):
    """Three questions, of which one has a reply."""
    text = '{"prompt": "one?"}\n{"prompt": "two?", "reply": "2"}\n{"prompt": "three?"}\n'
    return desk.write(text, "new.jsonl")


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def weight(folder):
    return json.loads((folder / "adapter" / "weight.json").read_text())["weight"]


def generated(ftcore, folder, *arguments):
    code, out, err = ftcore("generate", folder, "--quiet", *arguments)
    assert (code, err) == (0, "")
    return lines(out)


def test_rows_without_a_reply(folder, rows, ftcore):
    first, second, third = generated(ftcore, folder, "--data", rows, "--batch-size", 2)
    assert first["answer"] == f"{weight(folder):.3f} to new.jsonl:1"
    assert [each["origin"] for each in (first, second, third)] == [f"new.jsonl:{n}" for n in (1, 2, 3)]
    assert (first["prompt"], first["tokens"], first["batch"]) == ("one?", len(first["answer"]), 2)
    assert first["seconds"] == second["seconds"]
    assert first["seconds_per_row"] == pytest.approx(first["seconds"] / 2, abs=1e-6)
    assert third["batch"] == 1
    assert [each["expected"] for each in (first, second, third)] == [None, "2", None]
    assert [*second][:4] == ["origin", "prompt", "expected", "answer"], "to be read side by side"


def test_the_answers_are_those_that_the_run_noted(desk, folder, ftcore):
    report = json.loads((folder / "report.json").read_text())["samples"]
    raw = lines((desk.folder / "rows.jsonl").read_text())
    asked = [{"prompt": raw[int(sample["origin"].partition(":")[2]) - 1]["prompt"]} for sample in report]
    desk.write("".join(json.dumps(row) + "\n" for row in asked), "rows-asked.jsonl")
    found = generated(ftcore, folder, "--data", "rows-asked.jsonl")
    assert [each["prompt"] for each in found] == [sample["prompt"] for sample in report]
    assert [each["answer"].partition(" ")[0] for each in found] == [s["after"].partition(" ")[0] for s in report]


def test_a_single_question(folder, ftcore):
    assert ftcore("generate", folder, "--prompt", "how?", "--quiet", "--base") == (0, "1.000 to --prompt\n", "")
    (line,) = generated(ftcore, folder, "--prompt", "how?", "--json", "--checkpoint", 3, "--max-new-tokens", 5)
    third = json.loads((folder / "checkpoints" / "step-000003" / "state.json").read_text())["weight"]
    assert line["answer"] == f"{third:.3f}"[:5]


def test_a_temperature_draws(folder, ftcore):
    (line,) = generated(ftcore, folder, "--prompt", "how?", "--json", "--temperature", 0.7)
    assert line["answer"] == "0.7 --prompt"


def test_answers_go_into_a_file_that_is_never_replaced_unasked(desk, folder, rows, ftcore):
    place = desk.folder / "answers.jsonl"
    assert generated(ftcore, folder, "--data", rows, "--output", place) == []
    assert len(lines(place.read_text())) == 3
    place.write_text("mine\n")
    code, _, err = ftcore("generate", folder, "--prompt", "a", "--output", place)
    assert code == 2
    assert err.strip() == f"--output {place}: the file is there already; name another one, or pass --overwrite"
    assert place.read_text() == "mine\n"
    code, out, _ = ftcore("generate", folder, "--prompt", "a", "--output", place, "--overwrite")
    assert (code, out.count("\n")) == (0, 1)
    assert lines(place.read_text())[0]["prompt"] == "a"


def test_what_goes_wrong_before_the_first_answer_costs_no_file(desk, folder, rows, ftcore, monkeypatch):
    place = desk.folder / "answers.jsonl"
    place.write_text("mine\n")
    monkeypatch.setenv("LIGHT_FAULT", "load_model=RunError")
    assert ftcore("generate", folder, "--data", rows, "--output", place, "--overwrite")[0] == 1
    assert place.read_text() == "mine\n"


def test_a_kill_loses_the_batch_that_is_being_answered_and_no_more(desk, folder, rows, ftcore, monkeypatch):
    import light_plugins

    class Tired(light_plugins.Arithmetic):
        asked = 0

        def generate(self, examples, max_new_tokens, temperature=0.0):
            self.asked += 1
            if self.asked == 2:
                assert len(lines((desk.folder / "answers.jsonl").read_text())) == 2
                raise KeyError("killed")
            return super().generate(examples, max_new_tokens, temperature)

    monkeypatch.setattr(light_plugins, "Arithmetic", Tired)
    code, _, err = ftcore("generate", folder, "--data", rows, "--batch-size", 2, "--output", "answers.jsonl", "--quiet")
    assert code == 1
    assert "KeyError" in err
    assert [line["origin"] for line in lines((desk.folder / "answers.jsonl").read_text())] == [
        "new.jsonl:1",
        "new.jsonl:2",
    ]


def test_lines_from_a_pipe(folder, ftcore, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    assert [line["prompt"] for line in generated(ftcore, folder, "--json")] == ["one", "two"]


def test_a_line_that_is_refused_does_not_end_the_conversation(folder, ftcore, monkeypatch):
    import light_plugins

    def question(prompt, images):
        if prompt == "bad":
            raise light_plugins.RunError("not that")
        return {"prompt": "" if prompt == "nothing" else prompt}

    monkeypatch.setattr(light_plugins, "question", question)
    monkeypatch.setattr("sys.stdin", io.StringIO("bad\nnothing\ngood\n"))
    code, out, err = ftcore("generate", folder, "--quiet")
    assert (code, out) == (0, f"{weight(folder):.3f} to --prompt\n")
    assert err.splitlines() == ["not that", "not asked: nothing is asked"]


def test_a_terminal_is_asked_line_by_line_until_ctrl_d(desk, folder):
    """A real one, in a process of its own."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "ftcore.cli", "generate", str(folder), "--quiet"]
    environment = {**os.environ, **desk.installation.env, "TERM": "dumb"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    try:
        said(leader, "> ")
        os.write(leader, b"how?\n")
        said(leader, "to --prompt\r\n> ")
        os.write(leader, b"\x04")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait(timeout=20)
        os.close(leader)


def said(leader, wanted, seconds=20.0):
    end, seen = time.monotonic() + seconds, ""
    while wanted not in seen:
        assert time.monotonic() < end, seen
        if select.select([leader], [], [], 0.1)[0]:
            seen += os.read(leader, 4096).decode(errors="replace")


def test_a_row_that_asks_nothing_keeps_its_line(desk, folder, ftcore):
    desk.write('{"prompt": ""}\n{"prompt": "two?"}\n', "new.jsonl")
    code, out, err = ftcore("generate", folder, "--data", "new.jsonl")
    first, second = lines(out)
    assert code == 0
    assert first == {"origin": "new.jsonl:1", "answer": None, "left_out": "nothing is asked"}
    assert second["batch"] == 1
    assert "warning: new.jsonl:1 is not asked: nothing is asked" in err
    desk.write('{"prompt": ""}\n', "new.jsonl")
    code, _, err = ftcore("generate", folder, "--data", "new.jsonl", "--quiet")
    assert (code, err.strip()) == (1, "none of the 1 rows can be asked; the first: nothing is asked")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nope.jsonl"], "--data: no such file or folder: nope.jsonl"),
        (["--data", "empty.jsonl"], "empty.jsonl has no rows"),
        (
            ["--data", "rows.jsonl", "--image", "x.png"],
            "--image goes with --prompt; rows of a file name their own images",
        ),
        (["--prompt", "a", "--image", "x.png"], "--image: no such file: x.png"),
        (["--prompt", "a", "--image", "rows.jsonl"], "--image: there is no place for it"),
        (["--image", "rows.jsonl"], "--image: there is no place for it"),
        (["--prompt", "a", "--checkpoint", 7], "there are: 3, 4"),
        (["--prompt", "a", "--output", "nope/x.jsonl"], "--output nope/x.jsonl: no such folder"),
        (["--prompt", "a", "--output", "."], "--output .: that is a folder"),
        (["--prompt", "a", "--batch-size", 0], "--batch-size 0: write at least 1"),
        (["--prompt", "a", "--max-new-tokens", 0], "--max-new-tokens 0: write at least 1"),
        (["--prompt", "a", "--temperature", -1], "--temperature -1.0: write 0 for the likeliest tokens, or more"),
        (["--prompt", "a", "--temperature", "nan"], "--temperature nan: write 0"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence_before_a_model_is_read(
    desk, folder, ftcore, monkeypatch, arguments, said
):
    desk.write("", "empty.jsonl")
    monkeypatch.setenv("LIGHT_FAULT", "load_model=ValueError")
    code, out, err = ftcore("generate", folder, "--quiet", *arguments)
    assert code in (1, 2)
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_format_that_cannot_be_asked_takes_whole_rows_only(desk, folder, ftcore, monkeypatch):
    monkeypatch.setattr("light_plugins.question", None)
    monkeypatch.setattr("light_plugins.questions", None)
    code, _, err = ftcore("generate", folder, "--prompt", "a", "--quiet")
    assert code == 2
    assert "light_format (light-plugins 1.2) does not say how a text becomes a row" in err
    assert len(generated(ftcore, folder, "--data", "rows.jsonl")) == 12


def test_a_row_of_another_format_names_its_line_and_the_plugin(desk, folder, ftcore):
    desk.write('{"prompt": "a"}\n{"question": "b"}\n', "other.jsonl")
    code, _, err = ftcore("generate", folder, "--data", "other.jsonl", "--quiet")
    assert code == 3
    assert "plugin light_format (light-plugins 1.2): other.jsonl:2 cannot be asked: KeyError: 'prompt'" in err


def test_a_run_that_another_process_holds(folder, ftcore):
    with locked(folder):
        code, _, err = ftcore("generate", folder, "--prompt", "a", "--quiet")
    assert code == 1
    assert f"{folder} is in use by pid" in err
