"""The real tiny model of a finished run is judged, asked and compared as the run itself noted it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Start
from forked import QUICKSTART, SMALL, Child, only_run, read

Finished = tuple[Path, Child]


def printed(child: Child) -> dict[str, Any]:
    assert child.wait() == 0, child.text
    found: dict[str, Any] = json.loads(child.text)
    return found


def test_losses_and_answers_are_those_of_the_report(finished: Finished, start: Start) -> None:
    run, report = finished[0], read(finished[0] / "report.json")
    found = printed(start("compare", run, "base", "--json", "--quiet"))
    tuned, base = found["models"]
    assert tuned["loss"]["value"] == pytest.approx(report["loss"]["after"], rel=1e-9)
    assert base["loss"]["value"] == pytest.approx(report["loss"]["before"], rel=1e-9)
    answers = {each["origin"]: each["answers"] for each in found["samples"]}
    for sample in report["samples"]:
        assert answers[sample["origin"]] == {run.name: sample["after"], "base": sample["before"]}
    (loss,) = [each for each in found["differences"] if each["figure"] == "loss"]
    assert loss["high"] < 0
    assert loss["verdict"] == ("better" if loss["rows"] > 5 else "no clear difference")


def test_rows_without_a_reply_get_the_answers_that_the_run_noted(
    finished: Finished, start: Start, tmp_path: Path
) -> None:
    samples = read(finished[0] / "report.json")["samples"]
    questions = [sample["prompt"].removeprefix("user\n\n").removesuffix("assistant\n\n") for sample in samples]
    data, place = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps({"instruction": question}) + "\n" for question in questions))
    child = start("generate", finished[0], "--data", data, "--max-new-tokens", 8, "--batch-size", 3, "--output", place)
    assert child.wait() == 0, child.text
    found = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["answer"] for line in found] == [sample["after"] for sample in samples]
    assert all(
        bool(line["tokens"]) == bool(line["answer"]) and 0 < line["seconds_per_row"] <= line["seconds"]
        for line in found
    )


@pytest.mark.slow
@pytest.mark.parametrize("start_of", ["default", "pissa"])
def test_the_base_is_the_model_before_its_first_step_after_other_weights_too(
    start: Start, tmp_path: Path, start_of: str
) -> None:
    """PiSSA takes the adapter's start out of the base's weights: without it, they are another model."""
    options = [f"--set=run.output_dir={tmp_path}", *SMALL, f"--set=plugin.lora.init={start_of}", "--without=merge"]
    child = start("run", QUICKSTART, *options, "--without=tensorboard", "--quiet")
    assert child.wait() == 0, child.text
    run = only_run(tmp_path)
    known = read(run / "report.json")["loss"]
    found = printed(start("compare", run, f"{run}@8", "base", "--json", "--quiet", "--answers", 0))
    losses = [model["loss"]["value"] for model in found["models"]]
    assert losses[0] == pytest.approx(known["after"], rel=1e-6)
    assert losses[2] == pytest.approx(known["before"], rel=1e-9)
