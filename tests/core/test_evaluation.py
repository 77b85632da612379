"""Evaluations while a run trains: what is measured, written down and told, and that training is none the wiser."""

from __future__ import annotations

import json
import math

import pytest

from ftcore import engine
from ftcore.errors import RunError
from ftcore.evaluation import judge
from ftcore.evaluation.samples import picture_of
from ftcore.journal.events import read_events
from ftcore.manifest import read_manifest
from ftcore.values import EventKind
from journals import figures

WATCHER = """
class Plugin:
    @hookimpl
    def on_evaluation(self, run, step, metrics):
        with open("seen.jsonl", "a") as file:
            file.write(json.dumps([step, dict(metrics)]) + "\\n")
        return StopRequest(reason="enough") if step == 8 else None
"""

SCORER = """
class Plugin:
    @hookimpl
    def score(self, predictions):
        right = sum(prediction.answer.startswith("0") for prediction in predictions)
        return {"right": right / len(predictions), "confusion/a/b": 3.0}
"""


@pytest.fixture
def scored(desk):
    """The light profile with a plugin that scores answers."""
    desk.installation.plugin("scorer", SCORER)
    desk.append("\n[plugin.scorer]\n")
    return desk


def answers(folder):
    return [event for event in read_events(folder / "events.jsonl") if event.kind is EventKind.ANSWERS]


def evaluations(folder):
    return {line["step"]: line for line in figures(folder) if "eval_loss" in line}


def test_an_evaluation_measures_loss_perplexity_and_scores(scored, display):
    folder = engine.run(scored.load(), display=display).folder
    found = evaluations(folder)
    assert list(found) == [4, 8]
    for line in found.values():
        assert set(line) == {"step", "eval_loss", "eval_perplexity", "eval_right"}
        assert line["eval_perplexity"] == pytest.approx(math.exp(line["eval_loss"]))
    assert found[8]["eval_right"] == 1.0
    (said,) = [line for line in display.lines if line.startswith("step 8:")]
    assert said == f"step 8: held-out loss {found[8]['eval_loss']:.5g}, " + (
        f"perplexity {found[8]['eval_perplexity']:.5g}, right 1"
    )


def test_answers_are_written_down_before_during_and_after(scored):
    outcome = engine.run(scored.load())
    events = answers(outcome.folder)
    assert [(event.values["when"], event.step) for event in events] == [
        ("before", 0),
        ("during", 4),
        ("during", 8),
        ("after", 10),
    ]
    for event in events:
        assert event.values["scores"]["confusion/a/b"] == 3.0  # where it does not crowd the curves
        assert [set(row) for row in event.values["rows"]] == [{"origin", "prompt", "expected", "answer", "images"}] * 3
    assert events[0].values["loss"] == outcome.loss_before
    assert events[-1].values["loss"] == outcome.loss_after
    last = [row["answer"] for row in events[-1].values["rows"]]
    assert last == [sample.after for sample in outcome.samples]
    assert [row["answer"] for row in events[1].values["rows"]] != last


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (2, 2), (100, 3)])
def test_eval_samples_says_how_many_rows_are_answered(scored, count, rows):
    folder = engine.run(scored.load(sets=[f"train.eval_samples={count}"])).folder
    during = [event for event in answers(folder) if event.values["when"] == "during"]
    assert [len(event.values["rows"]) for event in during] == [rows] * 2
    assert ("eval_right" in evaluations(folder)[4]) == (rows > 0)


def test_observers_get_every_figure_and_may_stop_the_run(scored):
    scored.installation.plugin("watcher", "import json\n" + WATCHER)
    scored.append("\n[plugin.watcher]\n")
    outcome = engine.run(scored.load(sets=["train.eval_steps=2"]))
    seen = dict(map(json.loads, (scored.folder / "seen.jsonl").read_text().splitlines()))
    assert list(seen) == [2, 4, 6, 8]
    assert set(seen[8]) == {"eval_loss", "eval_perplexity", "eval_right", "eval_confusion/a/b"}
    assert outcome.step == 8
    assert read_manifest(outcome.folder).reason == "enough"
    assert (outcome.folder / "checkpoints" / "step-000008").is_dir()


def test_evaluations_do_not_change_what_is_trained(scored):
    with_them = engine.run(scored.load(sets=["train.eval_steps=1"]))
    without = engine.run(scored.load(sets=["train.eval_steps=0"]))
    steps = [line for line in figures(with_them.folder) if "loss" in line]
    assert steps == figures(without.folder)
    assert with_them.loss_after == without.loss_after


def test_a_resumed_run_has_the_same_evaluations(scored, monkeypatch):
    whole = engine.run(scored.load()).folder
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    with pytest.raises(RunError):
        engine.run(scored.load())
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = set(scored.runs()) - {whole}
    engine.resume(folder)
    assert evaluations(folder) == evaluations(whole)
    assert [event.values["when"] for event in answers(folder)] == ["before", "during", "during", "after"]


def test_several_processes_answer_together_and_one_writes(scored, monkeypatch):
    for name, value in scored.installation.env.items():
        monkeypatch.setenv(name, value)
    scored.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    scored.append("\n[plugin.light_ranks]\n")
    alone = engine.run(scored.load())
    team = engine.run(scored.load(sets=["hardware.processes=2"]))
    assert figures(team.folder) == figures(alone.folder)
    assert [event.values for event in answers(team.folder)] == [event.values for event in answers(alone.folder)]


def test_the_size_of_the_model_is_written_down_once_it_is_adapted(desk, monkeypatch):
    counted = {"total": 1000, "trainable": 10}
    monkeypatch.setattr("ftcore.record.count_parameters", lambda model: counted)
    folder = engine.run(desk.load()).folder
    (event,) = [event for event in read_events(folder / "events.jsonl") if event.kind is EventKind.MODEL]
    assert event.values["parameters"] == read_manifest(folder).model["parameters"] == counted
    assert event.values["license"] == "mit"


def test_perplexity_is_the_exponential_of_the_loss():
    assert judge.figures({"eval_loss": 2.0}, {})["eval_perplexity"] == pytest.approx(7.38905609893065)
    assert judge.figures({"eval_loss": 5000.0}, {})["eval_perplexity"] == math.inf
    assert judge.figures({}, {"exact": 1.0}) == {"eval_exact": 1.0}


def test_a_picture_that_cannot_be_drawn_ends_no_run(tmp_path, caplog):
    from types import SimpleNamespace

    from ftcore.values import Example

    def broken(examples):
        raise ValueError("no such image")

    example = Example(input_ids=[1], labels=[1], replies=("a",), origin="x:1")
    prepared = SimpleNamespace(data=SimpleNamespace(collate=broken), processor=None)
    assert picture_of(tmp_path, prepared, example) == ()
    assert caplog.messages == ["no picture of x:1 is shown: ValueError: no such image"]
    assert list(tmp_path.iterdir()) == []
