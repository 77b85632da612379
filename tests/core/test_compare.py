"""`ftcore compare`: models side by side on the same rows."""

from __future__ import annotations

import json

import pytest

from ftcore import engine
from ftcore.errors import ProfileError
from ftcore.evaluation.subjects import reference_of, same_model, subjects_of
from ftcore.locks import locked
from ftcore.manifest import read_manifest


@pytest.fixture
def profile(desk):
    """Forty rows, ten of them held out, and answers that are scored."""
    desk.write_rows(40)
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.append("\n[plugin.light_score]\n")
    return desk


@pytest.fixture
def folder(profile):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    return engine.run(profile.load()).folder


def compared(ftcore, *arguments):
    code, out, err = ftcore("compare", "--json", "--quiet", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def losses(found):
    return {model["name"]: model["loss"]["value"] for model in found["models"]}


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_run_alone_is_compared_with_its_base(folder, ftcore):
    found = compared(ftcore, folder)
    known = report(folder)
    assert found["reference"] == "base"
    assert losses(found) == pytest.approx({folder.name: known["loss"]["after"], "base": known["loss"]["before"]})
    samples = {each["origin"]: each["answers"] for each in found["samples"]}
    for sample in known["samples"]:
        assert samples[sample["origin"]] == {folder.name: sample["after"], "base": sample["before"]}


def test_the_base_is_the_base_wherever_it_is_named(folder, ftcore):
    first, last = (losses(compared(ftcore, *order)) for order in ((folder, "base"), (f"{folder}@base", folder)))
    assert first == last
    assert list(first) == [folder.name, "base"]


def test_checkpoints_stand_beside_the_run(folder, ftcore):
    found = compared(ftcore, folder, f"{folder}@3", "--checkpoint", 4)
    third = json.loads((folder / "checkpoints" / "step-000003" / "state.json").read_text())["weight"]
    assert list(losses(found)) == [folder.name, f"{folder.name}@3", f"{folder.name}@4"]
    assert losses(found)[f"{folder.name}@3"] == pytest.approx(third)
    assert losses(found)[f"{folder.name}@4"] == losses(found)[folder.name]
    assert found["reference"] == folder.name
    verdicts = {(each["model"], each["figure"]): each["verdict"] for each in found["differences"]}
    assert verdicts[f"{folder.name}@4", "loss"] == "no clear difference"
    assert verdicts[f"{folder.name}@3", "loss"] == ("worse" if third > losses(found)[folder.name] else "better")


def test_runs_that_differ_in_their_training_share_a_model(profile, folder, ftcore, monkeypatch):
    import light_plugins

    profile.replace("max_steps = 4", "max_steps = 6")
    other = engine.run(profile.load()).folder
    assert same_model(read_manifest(folder), read_manifest(other))
    loaded = []
    monkeypatch.setattr(light_plugins, "fault", loaded.append)
    found = compared(ftcore, folder, other, "base")
    assert loaded.count("load_model") == 1
    one, two = report(folder)["loss"], report(other)["loss"]
    wanted = {folder.name: one["after"], other.name: two["after"], "base": one["before"]}
    assert losses(found) == pytest.approx(wanted)


def test_runs_of_another_model_are_opened_one_by_one(profile, folder, ftcore, monkeypatch):
    import light_plugins

    profile.replace("[plugin.light_trainer]\n", "[plugin.light_trainer]\nshrink = 0.8\n")
    other = engine.run(profile.load()).folder
    assert not same_model(read_manifest(folder), read_manifest(other))
    loaded = []
    monkeypatch.setattr(light_plugins, "fault", loaded.append)
    found = compared(ftcore, folder, other)
    assert loaded.count("load_model") == 2
    assert losses(found) == pytest.approx(
        {folder.name: report(folder)["loss"]["after"], other.name: report(other)["loss"]["after"]}
    )


def test_runs_whose_held_out_rows_differ_are_refused(profile, folder, ftcore):
    profile.replace('name = "light"', 'name = "light"\nseed = 7')
    other = engine.run(profile.load()).folder
    code, out, err = ftcore("compare", folder, other, "--quiet")
    assert (code, out) == (1, "")
    assert "the validation rows differ: " in err
    assert f"of the 10 of {folder.name} are not among the 10 of {other.name}, such as rows.jsonl:" in err
    assert "name common rows with --data FILE" in err
    found = compared(ftcore, folder, other, "--data", "rows.jsonl", "--rows", 20)
    assert (found["rows"]["count"], found["rows"]["name"]) == (20, "rows.jsonl")


def test_rows_that_one_run_cannot_read_are_left_out_of_all(profile, folder, ftcore):
    profile.replace("save_steps = 3", "save_steps = 3\nmax_length = 30")
    other = engine.run(profile.load()).folder
    short = [{"prompt": f"what is {n}?", "reply": f"{n}"} for n in range(8)]
    rows = [*short, {"prompt": "what is this long thing, which is longer than most?", "reply": "x"}]
    profile.write("".join(json.dumps(row) + "\n" for row in rows), "new.jsonl")
    for order in ((folder, other), (other, folder)):
        found = compared(ftcore, *order, "--data", "new.jsonl")
        assert found["rows"]["count"] == 8


def test_settings_are_laid_over_every_run(profile, folder, ftcore):
    other = engine.run(profile.load(sets=["train.learning_rate=0.5"])).folder
    settings = ("--set", "hardware.threads=1", "--set", "run.sample_tokens=3")
    code, _, err = ftcore("compare", folder, other, "--quiet", *settings)
    assert (code, "run.sample_tokens" in err, "hardware" in err) == (2, True, False)
    code, out, err = ftcore("compare", folder, other, "--json", "--quiet", *settings, "--allow-changes")
    assert code == 0, err
    assert {len(answer) for row in json.loads(out)["samples"] for answer in row["answers"].values()} == {3}


def test_a_person_reads_tables_verdicts_and_answers(folder, ftcore):
    code, out, err = ftcore("compare", folder, "--samples", 1)
    assert code == 0
    assert f"judging {folder.name}" in err
    assert "judging base" in err
    for said in ("10 rows of validation, 10 of them answered", "with base as the reference", "no clear difference"):
        assert said in out
    assert "paired bootstrap over rows, 1000 draws, seed 42" in out
    assert out.count("expected:") == 1
    assert f"  {folder.name}: " in out


def test_the_same_draws_give_the_same_figures(folder, ftcore):
    assert compared(ftcore, folder) == compared(ftcore, folder)
    assert compared(ftcore, folder, "--draws", 200)["differences"][0]["draws"] == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base"], "name a run first, such as: ftcore compare RUN base"),
        (["nope"], "nope is no run folder: it has no manifest.json"),
        (["FOLDER", "FOLDER"], "is named twice; name each model once"),
        (["FOLDER@4", "FOLDER", "--checkpoint", 4], "is named twice; name each model once"),
        (["FOLDER@x"], "write RUN@STEP or RUN@base, such as"),
        (["FOLDER@base"], "one model alone; name another one beside it"),
        (["FOLDER@9"], "there are: 3, 4"),
        (["FOLDER", "--data", "nope.jsonl"], "--data: no such file or folder: nope.jsonl"),
        (["FOLDER", "--rows", 0], "--rows 0: write how many rows, at least 1"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(folder, ftcore, arguments, said):
    named = [str(each).replace("FOLDER", str(folder)) for each in arguments]
    code, out, err = ftcore("compare", "--quiet", *named)
    assert code in (1, 2)
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_run_that_another_process_holds(folder, ftcore):
    with locked(folder):
        code, _, err = ftcore("compare", folder, "--quiet")
    assert code == 1
    assert "is in use by pid" in err


def test_names_are_as_short_as_they_can_be(tmp_path):
    for name in ("a/run", "b/run", "c/lone", "x@y"):
        (tmp_path / name).mkdir(parents=True)
    named = [str(tmp_path / name) for name in ("a/run", "b/run@12", "c/lone", "x@y")]
    found = subjects_of([*named, "base"])
    assert [each.name for each in found] == [named[0], named[1], "lone", "x@y", "base"]
    assert reference_of(found).name == "base"
    assert reference_of(found[:3]).name == named[0]
    with pytest.raises(ProfileError):
        subjects_of([])
