"""`ftcore evaluate`: a run, a checkpoint or the base, judged again on any rows."""

from __future__ import annotations

import json

import pytest

from ftcore import engine
from ftcore.errors import RunError
from ftcore.runs import locked


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.append("\n[plugin.light_score]\n")
    return engine.run(desk.load()).folder


def read(path):
    return json.loads(path.read_text("utf-8"))


def evaluated(ftcore, folder, *arguments):
    code, out, err = ftcore("evaluate", folder, "--json", "--quiet", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_saved_weights_on_the_held_out_rows_by_default(folder, ftcore):
    found, report = evaluated(ftcore, folder), read(folder / "report.json")
    assert found["loss"]["value"] == pytest.approx(report["loss"]["after"], rel=1e-12)
    assert [(each["origin"], each["answer"]) for each in found["samples"]] == [
        (each["origin"], each["after"]) for each in report["samples"]
    ]
    assert found["scores"]["answered"]["value"] == 1.0
    assert (found["weights"], found["step"], found["rows"]["name"]) == ("saved", 4, "validation")


def test_it_is_kept_in_the_run(folder, ftcore):
    found = evaluated(ftcore, folder)
    assert read(folder / "evaluations" / "validation.json") == found
    evaluated(ftcore, folder, "--checkpoint", 3, "--split", "train")
    assert (folder / "evaluations" / "train-step-000003.json").is_file()


def test_a_checkpoint_and_the_base(folder, ftcore):
    report = read(folder / "report.json")
    third = read(folder / "checkpoints" / "step-000003" / "state.json")["weight"]
    assert evaluated(ftcore, folder, "--checkpoint", 3)["loss"]["value"] == pytest.approx(third)
    base = evaluated(ftcore, folder, "--base")
    assert (base["loss"]["value"], base["step"]) == (report["loss"]["before"], 0)
    assert [each["answer"] for each in base["samples"]] == [each["before"] for each in report["samples"]]
