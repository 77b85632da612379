"""Early stopping: each reason to stop, what makes no sense, and counters that go on where the run does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.api import Event, EventKind, Notice, Point, Run, Step, StopRequest
from ftcore.testing import make_config, make_run, plugin_faults
from ftcore_plugins.early_stopping import EarlyStopping
from ftcore_plugins.early_stopping.counting import spent
from ftcore_plugins.early_stopping.options import Options

STAGE = EventKind.STAGE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **options: Any) -> EarlyStopping:
    return EarlyStopping(make_config(Options, options), clock or Clock())


def a_run(folder: Path, **train: Any) -> Run:
    return make_run(folder, train={"eval_steps": 100, "max_steps": 5000, **train})


def step(number: int, loss: float = 1.0) -> Step:
    return Step(number=number, total=5000, epoch=0.0, metrics={"loss": loss})


def evaluate(plugin: EarlyStopping, run: Run, values: Mapping[int, float], name: str = "eval_loss") -> tuple[int, str]:
    """The step at which the plugin asked for a stop, and why; (0, "") if it did not."""
    plugin.run_started(run)
    for number, value in values.items():
        for told in plugin.on_evaluation(run, number, {"eval_loss": 1.0, name: value}):
            if isinstance(told, StopRequest):
                return number, told.reason
    return 0, ""


FALLS_THEN_RISES = {100: 2.0, 200: 1.5, 300: 1.2, 400: 1.25, 500: 1.3, 600: 1.35, 700: 1.1}


def test_the_plugin_keeps_to_the_rules():
    assert plugin_faults(EarlyStopping) == []


def test_three_evaluations_without_improvement_are_enough(tmp_path):
    found = evaluate(make(), a_run(tmp_path), FALLS_THEN_RISES)
    reason = "early_stopping: eval_loss has not improved on 1.2, of step 300, for 300 steps"
    assert found == (600, reason)


@pytest.mark.parametrize(("patience", "at"), [(100, 400), (150, 500), (200, 500), (400, 0), (0, 0)])
def test_patience_is_counted_in_steps(tmp_path, patience, at):
    assert evaluate(make(patience=patience), a_run(tmp_path), FALLS_THEN_RISES)[0] == at


def test_a_change_under_min_delta_is_no_improvement(tmp_path):
    slow = {number: 2.0 - number / 10_000 for number in range(100, 2000, 100)}
    assert evaluate(make(), a_run(tmp_path), slow)[0] == 0
    assert evaluate(make(min_delta=0.05), a_run(tmp_path), slow)[0] == 400


def test_of_a_score_more_is_better(tmp_path):
    rises = {100: 0.1, 200: 0.5, 300: 0.6, 400: 0.6, 500: 0.55, 600: 0.6}
    plugin = make(metric="eval_exact")
    assert evaluate(plugin, a_run(tmp_path), rises, "eval_exact")[0] == 600


@pytest.mark.parametrize(
    ("options", "name", "values", "at"),
    [
        ({"target": 1.3}, "eval_loss", FALLS_THEN_RISES, 300),
        ({"target": 0.9, "target_metric": "eval_exact"}, "eval_exact", {100: 0.5, 200: 0.9}, 200),
        ({"target": 0.9, "metric": "eval_exact"}, "eval_exact", {100: 0.5, 200: 0.95}, 200),
        ({"target": 3.0, "target_metric": "eval_perplexity"}, "eval_perplexity", {100: 5.0, 200: 2.9}, 200),
    ],
)
def test_a_target_that_is_reached_is_enough(tmp_path, options, name, values, at):
    number, reason = evaluate(make(patience=0, **options), a_run(tmp_path), values, name)
    assert number == at
    assert reason.startswith(f"early_stopping: {name} is {values[at]:.4g} at step {at}, and its target")


def train(plugin: EarlyStopping, run: Run, losses: Mapping[int, float]) -> tuple[int, str]:
    plugin.run_started(run)
    for number, loss in losses.items():
        told = plugin.on_step(run, step(number, loss))
        if told is not None:
            return number, told.reason
    return 0, ""


PLATEAU = {number: max(1.0, 3.0 - number / 100) + 0.2 * (number % 2) for number in range(1, 1001)}


def test_a_plateau_of_the_training_loss_is_enough(tmp_path):
    number, reason = train(make(plateau_steps=300), a_run(tmp_path), PLATEAU)
    assert 500 <= number <= 530
    assert reason.startswith("early_stopping: the training loss has not improved on 1.1, of step 2")
    assert train(make(), a_run(tmp_path), PLATEAU) == (0, ""), "unless it is asked for, it is not looked at"


def test_hours_are_a_budget(tmp_path):
    clock, run = Clock(), a_run(tmp_path)
    plugin = make(clock, max_hours=2.0)
    plugin.run_started(run)
    clock.now += 7199
    assert plugin.on_step(run, step(1)) is None
    clock.now += 2
    told = plugin.on_step(run, step(2))
    assert told == StopRequest(reason="early_stopping: 2.00 hours are over, of 2")


def test_a_figure_that_is_not_measured_is_told_once(tmp_path):
    plugin, run = make(metric="eval_exat"), a_run(tmp_path)
    plugin.run_started(run)
    [notice] = plugin.on_evaluation(run, 100, {"eval_loss": 1.0, "eval_exact": 0.5})
    assert isinstance(notice, Notice)
    assert notice.text == "early_stopping watches eval_exat, which is not measured; did you mean eval_exact?"
    assert "eval_exact, eval_loss" in notice.advice
    assert not plugin.on_evaluation(run, 200, {"eval_loss": 1.0, "eval_exact": 0.5})


# What makes no sense


@pytest.mark.parametrize(
    ("options", "table", "key", "text"),
    [
        ({}, {"eval_steps": 0}, "metric", "never measured, since train.eval_steps = 0"),
        ({"patience": 10, "max_hours": 1.0}, {"eval_steps": 0}, "patience", "never measured"),
        ({"target": 1.0, "max_hours": 1.0}, {"eval_steps": 0}, "target", "never measured"),
        ({"patience": 50}, {}, "patience", "before the next evaluation; train.eval_steps is 100"),
        ({"patience": 0}, {}, "patience", "nothing can stop the run"),
        ({"metric": "loss"}, {}, "metric", "for the training loss, set plateau_steps"),
        ({"metric": "exact"}, {}, "metric", "did you mean 'eval_exact'?"),
        ({"target_metric": "exact", "target": 1.0}, {}, "target_metric", "no figure of an evaluation"),
        ({"metric": "eval_exact"}, {"eval_samples": 0}, "metric", "since train.eval_samples = 0"),
        ({"target_metric": "eval_exact"}, {}, "target_metric", "set target as well"),
        ({"target": -1.0}, {}, "target", "a loss is at least 0"),
        ({"target": 0.5, "target_metric": "eval_perplexity"}, {}, "target", "a perplexity is at least 1"),
        ({"plateau_steps": 5000}, {}, "plateau_steps", "the run ends after 5000 steps"),
    ],
)
def test_nonsense_is_found_before_the_run(tmp_path, options, table, key, text):
    problems = make(**options).check(a_run(tmp_path, **table))
    assert [problem.key for problem in problems] == [f"plugin.early_stopping.{key}"]
    assert text in problems[0].message


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ({}, {}),
        ({"max_hours": 3.0}, {"eval_steps": 0}),
        ({"plateau_steps": 500}, {"eval_steps": 0}),
        ({"patience": 0, "target": 0.5}, {}),
        ({"metric": "eval_exact", "patience": 300}, {}),
    ],
)
def test_sense_is_let_pass(tmp_path, options, table):
    assert make(**options).check(a_run(tmp_path, **{"load_best": True, **table})) == []


def test_who_stops_early_is_told_which_weights_the_run_ends_with(tmp_path):
    [doubt] = make(patience=200).check(a_run(tmp_path, eval_steps=100))
    assert (doubt.key, doubt.severity) == ("plugin.early_stopping", "warning")
    assert doubt.message.endswith("set train.load_best = true for those")
    assert make(patience=0, max_hours=2.0).check(a_run(tmp_path, eval_steps=100)) == [], "it is about time alone"


# Going on


def resumed(folder: Path, points: Mapping[int, Mapping[str, float]]) -> Run:
    lines = [{"step": number, "time": 1e9 + number, **metrics} for number, metrics in points.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return attrs.evolve(a_run(folder), resumed=True)


def test_patience_goes_on_where_the_run_does(tmp_path):
    run = resumed(tmp_path, {number: {"eval_loss": loss} for number, loss in FALLS_THEN_RISES.items() if number <= 500})
    assert evaluate(make(), run, {600: 1.35}) == (
        600,
        "early_stopping: eval_loss has not improved on 1.2, of step 300, for 300 steps",
    )


def test_steps_that_are_taken_again_do_not_count_twice(tmp_path):
    run = resumed(tmp_path, {number: {"eval_loss": loss} for number, loss in FALLS_THEN_RISES.items()})
    assert evaluate(make(), run, {200: 1.5, 300: 1.4, 400: 1.3})[0] == 0


def test_a_plateau_goes_on_where_the_run_does(tmp_path):
    run = resumed(tmp_path, {number: {"loss": loss} for number, loss in PLATEAU.items() if number <= 450})
    number, _ = train(make(plateau_steps=300), run, {number: loss for number, loss in PLATEAU.items() if number > 450})
    assert 500 <= number <= 530


def test_hours_of_earlier_attempts_count(tmp_path):
    run = resumed(tmp_path, {7: {"loss": 1.0}})  # the last sign of the second attempt, at 1e9 + 7
    events = [
        {"event": "stage", "step": 0, "time": 1e9 - 9000, "number": 1},
        {"event": "ended", "step": 3, "time": 1e9 - 7000, "state": "stopped"},  # 2000 s
        {"event": "stage", "step": 3, "time": 1e9 - 100, "number": 1},
        {"event": "checkpoint", "step": 3, "time": 1e9},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    clock = Clock()
    plugin = make(clock, max_hours=2200 / 3600)
    plugin.run_started(run)
    clock.now += 2200 - 2107 - 1
    assert plugin.on_step(run, step(8)) is None
    clock.now += 2
    assert plugin.on_step(run, step(9)) is not None


def test_time_between_attempts_does_not_count():
    assert spent([], []) == 0.0
    events = [
        Event(kind=kind, step=0, time=when, values={"number": number})
        for kind, when, number in ((STAGE, 10, 1), (STAGE, 15, 2), (STAGE, 1000, 1), (EventKind.ENDED, 1020, 0))
    ]
    assert spent(events, [Point(step=1, time=12, metrics={}), Point(step=2, time=1030, metrics={})]) == 35.0
    assert spent(events, [Point(step=1, time=18, metrics={})]) == 28.0, "also of an attempt before the last one"
    cut = Event(kind=EventKind.STARTED, step=0, time=1001, values={"until": 19.0})
    assert spent([*events, cut], []) == 29.0, "though its last points are cut"
    first = Event(kind=EventKind.STARTED, step=0, time=11, values={"until": None})
    assert spent([*events, first], []) == 25.0
