"""What is written, told and decided after a step, without a run around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from ftcore.checkpoints import CheckpointStore
from ftcore.control import FollowingControl, RunControl
from ftcore.display import Silent
from ftcore.errors import ExitCode, Interrupted, RunError
from ftcore.evaluation.judge import Judgement
from ftcore.journal.events import read_events
from ftcore.journal.metrics import read_points
from ftcore.journal.writing import Journal
from ftcore.requests import FILE, Requests
from ftcore.signals import StopSignals
from ftcore.testing import make_run
from ftcore.values import Decision, EventKind, Notice, Step, StopRequest

TOTAL = 10
STOP = Interrupted("SIGTERM received", ExitCode.RESUMABLE)
ANSWERED = Judgement(loss=1.5, scores={"exact": 0.25, "target/left": 3.0}, answers=())


@attrs.define
class Observers:
    """Tell what a test has them tell, and remember what they were told."""

    told: Sequence[Any] = ()
    steps: list[Step] = attrs.field(factory=list)
    evaluations: list[tuple[int, Mapping[str, float]]] = attrs.field(factory=list)

    def on_step(self, run: Any, step: Step) -> Sequence[Any]:
        self.steps.append(step)
        return self.told

    def on_evaluation(self, run: Any, step: int, metrics: Mapping[str, float]) -> Sequence[Any]:
        self.evaluations.append((step, metrics))
        return self.told


@attrs.define
class Judge:
    """Answers without a model."""

    asked: list[tuple[int, float | None]] = attrs.field(factory=list)

    def answered(self, count: int, loss: float | None) -> Judgement:
        self.asked.append((count, loss))
        return ANSWERED


@attrs.define
class Gauges:
    """A figure at every fourth look, from the first on."""

    looks: int = 0

    def sample(self) -> dict[str, float]:
        self.looks += 1
        return {"system/cpu": float(self.looks)} if self.looks % 4 == 1 else {}


class Screen(Silent):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step.number)


@pytest.fixture
def control(tmp_path):
    """Of a run with these options of `train`."""
    made = []

    def make(observers=None, tokens_seen=0.0, requested=None, **train):
        run = make_run(tmp_path, train={"log_steps": 1, "save_steps": 0, "load_best": False, **train})
        journal = Journal(tmp_path)
        journal.begin(0, TOTAL)
        signals = StopSignals()
        signals.requested = requested
        made.append(journal)
        return RunControl(
            plugins=observers or Observers(),
            run=run,
            store=CheckpointStore(folder=tmp_path / "checkpoints", keep=3),
            journal=journal,
            display=Screen(),
            signals=signals,
            judge=Judge(),
            gauges=Gauges(),
            tokens_seen=tokens_seen,
        )

    yield make
    for journal in made:
        journal.close()


def step(number: int, **metrics: float) -> Step:
    return Step(number=number, total=TOTAL, epoch=number / 5, metrics={"loss": 10.0 - number, **metrics})


def lines(folder) -> list[tuple[int, Mapping[str, float]]]:
    return [(point.step, point.metrics) for point in read_points(folder / "metrics.jsonl")]


def events(folder, kind: EventKind) -> list[Any]:
    return [event for event in read_events(folder / "events.jsonl") if event.kind is kind]


# -- what is written and told ---------------------------------------------------------------------


def test_every_few_steps_are_written_and_the_last_with_gauges_from_between(control, tmp_path):
    made = control(log_steps=3)
    for number in (1, 2, 3, 4, 5, 10):
        made.step_ended(step(number))
    assert lines(tmp_path) == [
        (3, {"loss": 7.0, "epoch": 0.6, "system/cpu": 1.0}),
        (10, {"loss": 0.0, "epoch": 2.0, "system/cpu": 5.0}),
    ]
    assert made.display.steps == [1, 2, 3, 4, 5, 10], "all are shown"
    assert made.plugins.steps[0].metrics == {"loss": 9.0, "system/cpu": 1.0}, "and observers get them all"


def test_tokens_are_summed_from_where_the_run_went_on(control, tmp_path):
    made = control(tokens_seen=100.0)
    for number, metrics in enumerate([{"tokens": 7.0}, {}, {"tokens": 5.0}], start=1):
        made.step_ended(step(number, **metrics))
    assert [metrics.get("tokens_seen") for _, metrics in lines(tmp_path)] == [107.0, None, 112.0]


def test_events_come_after_the_step_and_notices_are_told(control, tmp_path):
    notice = Notice(sign="loss-rising", text="the loss rises", advice="lower it", page="docs/x.md")
    made = control(Observers([notice]))
    assert made.step_ended(step(4)) == Decision()
    (event,) = events(tmp_path, EventKind.NOTICE)
    assert (event.step, event.values) == (4, attrs.asdict(notice))
    assert made.display.lines == ["warning: step 4: the loss rises; lower it"]


def test_a_checkpoint_holds_what_the_journal_has_up_to_it(control, tmp_path):
    made = control(log_steps=5)
    made.step_ended(step(2))
    with made.checkpoint(2) as folder:
        (folder / "state").write_text("x")
        assert [number for number, _ in lines(tmp_path)] == [2], "its sums must stand where the run may go on from"
    (event,) = events(tmp_path, EventKind.CHECKPOINT)
    assert (event.step, event.values) == (2, {"path": "checkpoints/step-000002"})
    made.step_ended(step(5))
    assert [number for number, _ in lines(tmp_path)] == [2, 5]


# -- what is decided ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "train", "wanted"),
    [
        (4, {}, Decision()),
        (4, {"save_steps": 2}, Decision(checkpoint=True)),
        (5, {"save_steps": 2}, Decision()),
        (4, {"eval_steps": 2}, Decision(evaluate=True)),
        (5, {"eval_steps": 2}, Decision()),
        (4, {"eval_steps": 3, "load_best": True}, Decision()),
        (TOTAL, {}, Decision(checkpoint=True)),
        (TOTAL, {"eval_steps": 3}, Decision(checkpoint=True)),
        (TOTAL, {"eval_steps": 3, "load_best": True}, Decision(evaluate=True, checkpoint=True)),
    ],
)
def test_what_the_profile_asks_for(control, number, train, wanted):
    made = control(**train)
    following = FollowingControl(run=made.run, store=made.store, signals=made.signals, judge=made.judge)
    assert made.step_ended(step(number)) == following.step_ended(step(number)) == wanted


def test_who_is_told_to_end_commits_and_does_not_evaluate_first(control):
    made = control(requested=STOP, eval_steps=3, load_best=True)
    following = FollowingControl(run=made.run, store=made.store, signals=made.signals, judge=made.judge)
    wanted = Decision(checkpoint=True, stop=True)
    assert made.step_ended(step(4)) == following.step_ended(step(4)) == wanted


def test_the_first_observer_that_asks_for_a_stop_says_why(control):
    made = control(Observers([StopRequest(reason="patience: enough"), StopRequest(reason="another")]), eval_steps=3)
    assert made.step_ended(step(4)) == Decision(checkpoint=True, stop=True)
    assert made.stop_reason == "patience: enough"
    best = control(Observers([StopRequest(reason="x")]), eval_steps=3, load_best=True)
    assert best.step_ended(step(4)).evaluate, "the last step's weights are among those to choose from"


def test_a_checkpoint_that_somebody_asks_for_comes_once(control, tmp_path):
    times = iter([0.0, 2.0, 4.0])
    made = control()
    made.requests = Requests(tmp_path, clock=lambda: next(times))
    (tmp_path / FILE).touch()
    assert [made.step_ended(step(number)).checkpoint for number in (1, 2)] == [True, False]


# -- evaluations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load_best", "told", "wanted"),
    [
        (False, [], Decision()),
        (True, [], Decision(checkpoint=True)),
        (False, [StopRequest(reason="enough")], Decision(checkpoint=True, stop=True)),
    ],
)
def test_an_evaluation_is_written_told_and_may_end_the_run(control, tmp_path, load_best, told, wanted):
    made = control(Observers(told), load_best=load_best, eval_samples=2)
    made.step_ended(step(3))
    assert made.evaluated(3, {"eval_loss": 0.0}) == wanted
    assert made.judge.asked == [(2, 0.0)]
    measured = {"eval_loss": 0.0, "eval_perplexity": 1.0, "eval_exact": 0.25}
    assert lines(tmp_path)[-1] == (3, measured), "counts of a moment are no curve"
    (event,) = events(tmp_path, EventKind.ANSWERS)
    assert event.values == {"when": "during", **ANSWERED.as_json()}
    assert made.display.lines == ["step 3: held-out loss 0, perplexity 1, exact 0.25"]
    assert made.plugins.evaluations == [(3, {**measured, "eval_target/left": 3.0})], "observers get those, too"


def test_an_evaluation_without_the_figure_that_is_to_be_the_best_ends_the_run(control, tmp_path):
    made = control(best_metric="eval_other")
    with pytest.raises(RunError, match="eval_other"):
        made.evaluated(3, {"eval_loss": 1.0})
    assert lines(tmp_path) == []


def test_an_evaluation_of_no_rows_is_none(control, tmp_path):
    made = control(load_best=True)
    assert made.evaluated(3, {}) == Decision()
    assert (made.judge.asked, lines(tmp_path), made.plugins.evaluations) == ([], [], [])


def test_another_process_answers_its_share_and_writes_beside_the_main_one(control, tmp_path):
    made = control(eval_samples=2, load_best=True)
    following = FollowingControl(run=made.run, store=made.store, signals=made.signals, judge=made.judge)
    assert following.evaluated(3, {"eval_loss": 0.5}) == Decision()
    assert following.evaluated(6, {}) == Decision()
    assert made.judge.asked == [(2, 0.5)]
    with following.checkpoint(3) as folder:
        assert folder == made.store.staging(3)
    assert lines(tmp_path) == []
