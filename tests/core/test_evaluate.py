"""`ftcore evaluate`: a run, a checkpoint or the base, judged again on any rows."""

from __future__ import annotations

import json
import shutil

import pytest

from ftcore import engine
from ftcore.errors import RunError
from ftcore.locks import locked


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.append("\n[plugin.light_score]\n")
    return engine.run(desk.load()).folder


@pytest.fixture
def failed(desk, monkeypatch):
    """A run that failed in its second step, before its first checkpoint."""
    monkeypatch.setenv("LIGHT_FAULT", "step:2=RunError")
    with pytest.raises(RunError):
        engine.run(desk.load())
    monkeypatch.delenv("LIGHT_FAULT")
    return desk.runs()[-1]


def read(path):
    return json.loads(path.read_text("utf-8"))


def evaluated(ftcore, folder, *arguments):
    code, out, err = ftcore("evaluate", folder, "--json", "--quiet", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def refused(ftcore, folder, *arguments):
    code, out, err = ftcore("evaluate", folder, "--quiet", *arguments)
    assert out == ""
    return code, err.strip()


def test_the_saved_weights_on_the_held_out_rows_by_default(folder, ftcore):
    found, report = evaluated(ftcore, folder), read(folder / "report.json")
    assert found["loss"]["value"] == pytest.approx(report["loss"]["after"], rel=1e-12)
    answers = [(each["origin"], each["prompt"], each["expected"], each["answer"]) for each in found["samples"]]
    assert answers == [(s["origin"], s["prompt"], s["expected"], s["after"]) for s in report["samples"]]
    assert found["scores"]["answered"]["value"] == 1.0
    assert (found["weights"], found["step"], found["rows"]["name"]) == ("saved", 4, "validation")


def test_it_is_kept_in_the_run(folder, ftcore):
    found = evaluated(ftcore, folder)
    assert read(folder / "evaluations" / "validation.json") == found
    evaluated(ftcore, folder, "--checkpoint", 3, "--split", "train")
    assert (folder / "evaluations" / "train-step-000003.json").is_file()
    assert "answering" in (folder / "run.log").read_text()


def test_a_checkpoint_and_the_base(folder, ftcore):
    report = read(folder / "report.json")
    third = read(folder / "checkpoints" / "step-000003" / "state.json")["weight"]
    assert evaluated(ftcore, folder, "--checkpoint", 3)["loss"]["value"] == pytest.approx(third)
    base = evaluated(ftcore, folder, "--base")
    assert (base["loss"]["value"], base["step"]) == (report["loss"]["before"], 0)
    assert [each["answer"] for each in base["samples"]] == [each["before"] for each in report["samples"]]


def test_the_run_itself_is_left_as_it_was(desk, folder, ftcore):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}
    diary = desk.diary.read_text()
    evaluated(ftcore, folder)
    assert {path: path.read_bytes() for path in before} == before
    assert desk.diary.read_text() == diary


def test_the_training_rows_without_those_that_come_again(desk, ftcore):
    desk.replace("validation = 0.25", "validation = 0.25\nweights = [2]")
    folder = engine.run(desk.load()).folder
    found = evaluated(ftcore, folder, "--split", "train")
    assert found["rows"]["count"] == read(folder / "report.json")["ledger"]["trained"]


def test_some_rows_of_all_and_answers_to_some_of_these(desk, folder, ftcore):
    desk.write_rows(30, "more.jsonl")
    data = desk.folder / "more.jsonl"
    found = evaluated(ftcore, folder, "--data", data, "--rows", 10, "--answers", 5)
    assert (found["rows"]["count"], found["rows"]["answered"]) == (10, 5)
    assert [each["origin"] for each in found["samples"]] == [f"more.jsonl:{n}" for n in (1, 7, 13, 19, 25)]
    none = evaluated(ftcore, folder, "--data", data, "--answers", 0)
    assert (none["rows"]["count"], none["samples"], none["scores"]) == (30, [], {})


def test_the_rows_of_a_file_with_the_runs_own_columns(desk, ftcore):
    desk.write("".join(f'{{"ask": "{n}?", "say": "{n}."}}\n' for n in range(12)), "rows.jsonl")
    desk.replace("validation = 0.25", 'validation = 0.25\ncolumns = { prompt = "ask", reply = "say" }')
    folder = engine.run(desk.load()).folder
    desk.write('{"ask": "e?", "say": "f."}\n', "new.jsonl")
    found = evaluated(ftcore, folder, "--data", "new.jsonl")
    assert [each["prompt"] for each in found["samples"]] == ["e?"]
    assert (folder / "evaluations" / "new.jsonl.json").is_file()


def test_rows_that_drop_out_are_counted(desk, folder, ftcore):
    long = {"prompt": "x" * 3000, "reply": "y"}
    desk.write(f'{{"prompt": "a", "reply": "b"}}\n{json.dumps(long)}\n', "new.jsonl")
    found = evaluated(ftcore, folder, "--data", "new.jsonl")
    assert (found["rows"]["count"], found["rows"]["left_out"]) == (1, {"longer than train.max_length": 1})
    desk.write(f"{json.dumps(long)}\n", "new.jsonl")
    said = "none of the 1 rows of new.jsonl can be judged by (longer than train.max_length: 1)"
    assert refused(ftcore, folder, "--data", "new.jsonl") == (1, said)


def test_settings_reach_the_trainer(folder, ftcore, monkeypatch):
    import light_plugins

    seen = {}

    class Spy(light_plugins.Arithmetic):
        def generate(self, examples, max_new_tokens, temperature=0.0):
            seen.update(tokens=max_new_tokens, batch=self._run.profile.train.eval_batch_size, temperature=temperature)
            return super().generate(examples, max_new_tokens, temperature)

    monkeypatch.setattr(light_plugins, "Arithmetic", Spy)
    found = evaluated(ftcore, folder, "--max-new-tokens", 4, "--batch-size", 3, "--draws", 123)
    assert seen == {"tokens": 4, "batch": 3, "temperature": 0.0}
    assert found["loss"]["draws"] == 123
    assert found["interval"] == {"level": 0.95, "method": "expanded percentile bootstrap over rows", "seed": 42}


def test_a_person_reads_figures_and_answers(folder, ftcore):
    code, out, err = ftcore("evaluate", folder, "--samples", 1)
    assert code == 0
    assert "[6/6] answering" in err
    for said in ("step 4: 3 rows of validation, 3 of them answered", "perplexity", "1000 draws, seed 42", "expected:"):
        assert said in out
    assert "note: all 3 rows agree in" in out
    assert out.count("expected:") == 1
    assert str(folder / "evaluations" / "validation.json") in out


def test_quiet_is_quiet(folder, ftcore):
    assert ftcore("evaluate", folder, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", 7], "no checkpoint of step 7 in FOLDER/checkpoints; there are: 3, 4"),
        (["--data", "nope.jsonl"], "--data: no such file or folder: nope.jsonl"),
        (["--data", "empty.jsonl"], "empty.jsonl has no rows"),
        (["--rows", 0], "--rows 0: write how many rows, at least 1"),
        (["--answers", -1], "--answers -1: write at least 0"),
        (["--draws", 10], "--draws 10: write at least 100"),
        (["--samples", -1], "--samples -1: write at least 0"),
        (["--max-new-tokens", 0], "--max-new-tokens 0: write at least 1"),
        (["--batch-size", 0], "--batch-size 0: write at least 1"),
        (["--split", "test"], "--split test: those are the rows that the run was made with; pass --split train"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(desk, folder, ftcore, arguments, said):
    desk.write("", "empty.jsonl")
    code, err = refused(ftcore, folder, *arguments)
    assert code in (1, 2)
    assert said.replace("FOLDER", str(folder)) in err
    assert len(err.splitlines()) == 1


def test_rows_of_another_format_name_their_line(desk, folder, ftcore):
    desk.write('{"prompt": "a", "reply": "b"}\n{"question": "c"}\n', "other.jsonl")
    code, err = refused(ftcore, folder, "--data", "other.jsonl")
    assert code == 3
    assert "other.jsonl:2" in err


def test_no_run(desk, ftcore):
    assert refused(ftcore, desk.folder / "nope") == (
        1,
        f"{desk.folder / 'nope'} is no run folder: it has no manifest.json",
    )


def test_a_run_without_weights_has_its_base_alone(failed, ftcore):
    code, err = refused(ftcore, failed)
    way = f"resume it: ftcore run --resume {failed}"
    assert (code, err) == (1, f"{failed} is failed and has saved neither adapter nor model; {way}")
    assert evaluated(ftcore, failed, "--base")["loss"]["value"] == 1.0


def test_a_run_that_another_process_holds(folder, ftcore):
    with locked(folder):
        code, err = refused(ftcore, folder)
    assert code == 1
    assert f"{folder} is in use by pid" in err


def test_a_run_without_held_out_rows(desk, ftcore):
    desk.replace("validation = 0.25", "validation = 0")
    desk.replace("eval_steps = 4", "eval_steps = 0")
    folder = engine.run(desk.load()).folder
    said = f"{folder} holds out no rows; name rows with --data FILE, or pass --split train"
    assert refused(ftcore, folder) == (1, said)


def test_changed_data_are_refused_unless_allowed(desk, folder, ftcore):
    desk.write_rows(13)
    code, err = refused(ftcore, folder)
    assert code == 1
    assert "the data has changed since the run began" in err
    assert ftcore("evaluate", folder, "--quiet", "--allow-changes")[0] == 0


def test_a_run_that_was_moved(folder, ftcore, tmp_path):
    place = shutil.copytree(folder, tmp_path / "moved")
    assert evaluated(ftcore, place)["run"] == "moved"
    assert not (folder / "evaluations").exists()
