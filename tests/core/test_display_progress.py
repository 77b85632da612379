"""The one value that every view of a run draws, and its curves."""

from __future__ import annotations

import math

import pytest

from ftcore.display.curve import MOST, Curve, resampled
from ftcore.display.progress import NOTICES, RECENT, Progress
from ftcore.values import Event, EventKind, Point, RunState


def point(step, time=0.0, **metrics):
    return Point(step=step, time=time or float(step), metrics=metrics)


def event(kind, /, step=0, time=0.0, **values):
    return Event(kind=EventKind(kind), step=step, time=time, values=values)


def stage(number, title):
    return event("stage", number=number, total=7, title=title)


STARTED = event("started", from_step=0, total_steps=100, metrics_bytes=0, time=0.5)


def after(*told, progress=None):
    progress = progress or Progress()
    for one in told:
        progress = progress.after(one)
    return progress


def test_it_knows_the_newest_figure_of_each_name():
    found = after(STARTED, point(1, loss=2.0, memory=3.0), point(2, loss=1.5, epoch=0.1))
    assert (found.step, found.total) == (2, 100)
    assert found.metrics == {"loss": 1.5, "memory": 3.0, "epoch": 0.1}
    assert found.losses.points() == [(1, 2.0), (2, 1.5)]
    assert found.recent == (2.0, 1.5)


def test_a_step_that_is_told_twice_counts_once():
    assert after(point(1, loss=2.0), point(1, loss=2.0)).recent == (2.0,)


def test_a_loss_that_is_no_number_is_shown_and_in_no_curve():
    found = after(point(1, loss=2.0), point(2, loss=math.nan))
    assert math.isnan(found.metrics["loss"])
    assert found.losses.points() == [(1, 2.0)]


def test_evaluations_have_a_place_of_their_own():
    found = after(point(4, loss=2.0), point(4, eval_loss=2.5), point(4, eval_exact=0.5), point(5, loss=1.0))
    assert (found.evaluation, found.evaluated_at) == ({"eval_loss": 2.5, "eval_exact": 0.5}, 4)
    assert after(point(8, eval_loss=2.0), progress=found).evaluation == {"eval_loss": 2.0}
    assert found.eval_losses.points() == [(4, 2.5)]


def test_time_left_is_by_the_pace_since_training_began():
    found = after(STARTED, point(1, time=10.0, loss=1.0))
    assert found.seconds_left() is None
    found = after(point(5, time=18.0, loss=1.0), progress=found)
    assert found.seconds_left() == 190.0
    assert found.seconds_left(now=28.0) == 180.0, "it runs on while a step takes long"
    assert found.seconds_left(now=1e6) is None, "it has come to a halt"
    assert after(point(100, time=400.0, loss=1.0), progress=found).seconds_left(now=1e6) == 0.0


def test_a_run_that_goes_on_has_the_curve_up_to_its_checkpoint_and_a_pace_of_its_own():
    before = after(STARTED, *(point(n, loss=1.0 / n) for n in range(1, 9)))
    again = event("started", step=6, from_step=6, total_steps=20, time=1000.0)
    found = after(again, progress=before)
    assert (found.step, found.total, found.losses.last_step) == (6, 20, 6)
    assert found.seconds_left() is None
    found = after(point(7, time=1001.0, loss=0.1), point(8, time=1003.0, loss=0.1), progress=found)
    assert found.seconds_left() == 24.0


def test_stages_before_training_and_after_it():
    found = after(stage(3, "loading model"), stage(5, "training"), STARTED)
    assert (found.stage, found.is_over) == ((5, 7, "training"), False)
    assert after(stage(6, "judging after"), progress=found).is_over
    again = after(stage(6, "judging after"), stage(1, "reading rows"), progress=found)
    assert (again.is_over, again.started) == (False, 0.0), "it was resumed, and trains later"


def test_what_happened_is_kept():
    notices = [event("notice", step=n, sign="loss-rising", text=f"text {n}", advice="try") for n in range(1, 9)]
    checkpoint = event("checkpoint", step=12, path="checkpoints/step-000012")
    artifact = event("artifact", kind="merged", path="x", proof={"verdict": "proved"})
    found = after(*notices, checkpoint, artifact, event("ended", state="stopped", reason="SIGTERM received"))
    assert (found.noticed, len(found.notices)) == (8, NOTICES)
    assert found.notices[-1].notice.text == "text 8"
    assert (found.checkpoint.step, found.checkpoint.path) == (12, "checkpoints/step-000012")
    assert found.artifacts == (("merged", "proved"),)
    assert (found.state, found.reason) == (RunState.STOPPED, "SIGTERM received")
    assert after(stage(1, "reading rows"), progress=found).state is RunState.RUNNING


@pytest.mark.parametrize(
    "odd",
    [
        event("stage", number="many"),
        event("started", from_step=None),
        event("checkpoint"),
        event("artifact", kind="x", proof=None),
        event("ended", state="exploded"),
        event("data"),
    ],
    ids=lambda odd: odd.kind,
)
def test_what_a_newer_version_writes_in_another_form_changes_nothing(odd):
    assert after(odd) == Progress()


def test_a_curve_of_a_long_run_stays_small_and_true():
    curve = Curve()
    for step in range(1, 100_001):
        curve = curve.extended(step, float(step))
    assert len(curve.buckets) <= MOST
    assert sum(bucket.count for bucket in curve.buckets) == 100_000
    total = sum(bucket.mean * bucket.count for bucket in curve.buckets)
    assert total == pytest.approx(100_000 * 100_001 / 2)
    means = [bucket.mean for bucket in curve.buckets]
    assert means == sorted(means)
    assert curve.last_step == 100_000
    assert curve.until(50_000).last_step <= 50_000


def test_the_last_losses_are_a_few():
    found = after(*(point(n, loss=float(n)) for n in range(1, 200)))
    assert found.recent == tuple(float(n) for n in range(200 - RECENT, 200))


def test_resampling_takes_means_of_neighbours():
    assert resampled([1.0, 2.0], 5) == [1.0, 2.0]
    assert resampled([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
