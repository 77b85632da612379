"""Bootstrap intervals, and what they say about a difference."""

from __future__ import annotations

import math
import random

import pytest

from ftcore.errors import PluginError
from ftcore.evaluation.differing import Difference, differences
from ftcore.evaluation.judge import perplexity
from ftcore.evaluation.measuring import Answered, Measured, draws_again, figures, scores_of
from ftcore.evaluation.rowset import spread
from ftcore.evaluation.statistics import FEWEST_ROWS, Draws, Interval, Ratio, interval, intervals, outside
from ftcore.values import Example, Prediction, RowLoss


def mean(values):
    return Ratio(values, [1.0] * len(values))


def test_equal_seeds_draw_the_same_rows():
    assert list(Draws(count=3, seed=7).of(5)) == list(Draws(count=3, seed=7).of(5))
    assert list(Draws(count=3, seed=7).of(5)) != list(Draws(count=3, seed=8).of(5))


def test_more_draws_are_more_draws():
    assert interval(mean([0.0, 1.0]), 2, Draws(count=150)).draws == 150


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = [float(number % 2) for number in range(400)]
    found = interval(mean(values), 400, Draws(count=1000))
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


@pytest.mark.parametrize("rows", [6, 40])
def test_it_holds_the_truth_about_as_often_as_it_says(rows):
    """Of six rows the plain percentile interval holds it in 86% of cases."""
    numbers = random.Random(1)
    held = 0
    for seed in range(300):
        values = [numbers.gauss(3, 1) for _ in range(rows)]
        found = interval(mean(values), rows, Draws(count=400, seed=seed))
        held += found.low <= 3 <= found.high
    assert 0.9 <= held / 300 <= 0.98


@pytest.mark.parametrize(("rows", "share"), [(1, 0.025), (6, 0.00243), (16, 0.0138), (10_000, 0.025)])
def test_intervals_of_few_rows_reach_farther_out(rows, share):
    """Phi(-sqrt(n/(n-1)) t), with t from a table of Student's distribution."""
    assert outside(rows) == pytest.approx(share, rel=0.01)


def test_a_loss_is_a_ratio_of_sums_and_no_mean_of_means():
    loss = Ratio([10.0, 1.0], [10.0, 0.5])
    assert loss([0, 1]) == 11 / 10.5
    assert loss([1, 1]) == 2


def test_draws_without_the_figure_are_left_out_of_it():
    found = interval(Ratio([1.0, 0.0], [1.0, 0.0]), 2, Draws(count=200))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert 100 < found.draws < 200
    assert math.isnan(interval(Ratio([0.0], [0.0]), 1, Draws(count=100)).low)


def test_a_loss_that_is_no_number_is_neither_better_nor_worse():
    nats = [3.0] * 19
    pair = {
        "base": measured(["no"] * 20, exact, nats=[*nats, 1.0]),
        "run": measured(["no"] * 20, exact, nats=[*(each / 2 for each in nats), math.nan]),
    }
    loss = differences(pair, "base", Draws(count=200))[0][0]
    assert math.isnan(loss.interval.low)
    assert (loss.interval.draws, loss.verdict) == (0, "no clear difference")


def test_figures_that_belong_together_see_the_same_draws():
    def both(places):
        return {"one": mean([1.0, 2.0, 4.0])(places), "twice": mean([2.0, 4.0, 8.0])(places)}

    found = intervals(both, 3, Draws(count=100))
    assert found["twice"].low == 2 * found["one"].low


def test_perplexity_is_e_to_the_loss_also_of_an_absurd_one():
    assert perplexity(1) == math.e
    assert perplexity(1e6) == math.inf
    grown = Interval(value=0.0, low=-1.0, high=1.0, draws=1).through(perplexity)
    assert (grown.low, grown.value, grown.high) == (1 / math.e, 1.0, math.e)


@pytest.mark.parametrize(("count", "wanted", "places"), [(6, 3, [0, 2, 4]), (3, None, [0, 1, 2]), (2, 9, [0, 1])])
def test_few_rows_are_spread_over_all(count, wanted, places):
    assert spread(count, wanted) == places


def example(number, reply="yes"):
    return Example(input_ids=[1, 2], labels=[-100, 2], replies=(reply,), origin=f"rows:{number}")


def measured(answers, score, *, nats=None, tokens=None):
    count = len(answers)
    losses = [RowLoss(nats=n, tokens=t) for n, t in zip(nats or [1.0] * count, tokens or [1] * count, strict=True)]
    made = [
        Answered(place=n, prompt="?", prediction=Prediction(example=example(n), answer=answer))
        for n, answer in enumerate(answers)
    ]
    return Measured(losses=tuple(losses), answers=tuple(made), score=score)


def exact(predictions):
    return {"exact": sum(p.answer == p.example.replies[-1] for p in predictions) / len(predictions)}


def commonest(predictions):
    answers = [p.answer for p in predictions]
    return {"commonest": max(answers.count(answer) for answer in answers) / len(answers), "target/yes": 3.0}


def named(predictions):
    """Over the answers that are words, such as names that are compared where there is one."""
    words = [p.answer for p in predictions if p.answer.isalpha()]
    return {"named": sum(word == "yes" for word in words) / len(words)} if words else {}


def test_a_mean_is_drawn_by_arithmetic():
    asked = []

    def score(predictions):
        asked.append(len(predictions))
        return exact(predictions)

    found = figures(measured(["yes", "no", "yes", "no"], score), Draws(count=500))
    assert found["exact"].value == 0.5
    assert found["exact"].draws == 500
    assert asked == [4, 1, 1, 1, 1]


def test_a_mean_over_some_of_the_rows_is_one_too():
    scores = scores_of(measured(["yes", "12", "no", "34"], named))
    assert scores.ratios["named"](range(4)) == 0.5
    assert scores.others == []


def test_any_other_score_is_scored_again_on_each_draw():
    found = figures(measured(["a", "a", "b", "c"], commonest), Draws(count=300))
    assert found["commonest"].value == 0.5
    assert 0.25 <= found["commonest"].low < found["commonest"].high <= 1.0
    assert "target/yes" not in found


def test_a_score_that_takes_several_rows_is_scored_again():
    def several(predictions):
        if len(predictions) == 1:
            raise PluginError("one row alone")
        return exact(predictions)

    found = figures(measured(["yes", "no", "yes"], several), Draws(count=200))
    assert found["exact"].low < found["exact"].high


def test_what_costs_much_is_drawn_less_often():
    assert draws_again(Draws(count=1000), 50).count == 1000
    assert draws_again(Draws(count=1000), 400).count == 500
    assert draws_again(Draws(count=1000), 10**6).count == 200
    assert draws_again(Draws(count=100), 10**6).count == 100


def difference(low, high, *, figure="exact", changed=100):
    around = Interval(value=(low + high) / 2, low=low, high=high, draws=100)
    return Difference(model="a", reference="b", figure=figure, interval=around, rows=200, changed=changed)


@pytest.mark.parametrize(
    ("low", "high", "figure", "verdict"),
    [
        (0.1, 0.2, "exact", "better"),
        (-0.2, -0.1, "exact", "worse"),
        (-0.2, -0.1, "loss", "better"),
        (0.1, 0.2, "loss", "worse"),
        (-0.1, 0.2, "exact", "no clear difference"),
        (0.0, 0.2, "exact", "no clear difference"),
        (0.0, 0.0, "loss", "no clear difference"),
        (math.nan, math.nan, "exact", "no clear difference"),
    ],
)
def test_a_difference_is_clear_when_its_interval_leaves_out_zero(low, high, figure, verdict):
    assert difference(low, high, figure=figure).verdict == verdict


def test_few_rows_that_differ_prove_nothing():
    assert difference(0.9, 1.0, changed=FEWEST_ROWS).verdict == "better"
    assert difference(0.9, 1.0, changed=FEWEST_ROWS - 1).verdict == "no clear difference"


@pytest.mark.parametrize(
    ("score", "changed", "verdict"),
    [(exact, 5, "no clear difference"), (exact, 6, "better"), (commonest, 5, "no clear difference")],
)
def test_rows_that_are_the_same_for_both_do_not_make_few_many(score, changed, verdict):
    answers = ["yes"] * changed + ["no"] * (100 - changed)
    pair = {"base": measured(["no"] * 100, score), "run": measured(answers, score)}
    (loss, found), notes = differences(pair, "base", Draws(count=1000))
    assert (loss.changed, found.rows, found.changed, found.verdict) == (0, 100, changed, verdict)
    assert found.leaves_out_zero
    few = "fewer than 6 rows that differ prove nothing, whatever their interval"
    assert notes == ((few,) if changed < FEWEST_ROWS else ())


def test_rows_that_are_hard_for_both_tell_nothing_apart():
    """Paired, a small difference is clear where each loss alone has a wide interval."""
    hard = [float(number) for number in range(1, 41)]
    pair = {
        "base": measured(["no"] * 40, exact, nats=hard),
        "run": measured(["no"] * 40, exact, nats=[each - 0.1 - 0.001 * each for each in hard]),
    }
    (loss, score), notes = differences(pair, "base", Draws(count=500))
    assert (loss.verdict, score.verdict, notes) == ("better", "no clear difference", ())
    alone = figures(pair["run"], Draws(count=500))["loss"]
    assert alone.high - alone.low > 5
    assert loss.interval.high - loss.interval.low < 0.1


def test_losses_over_other_tokens_are_not_compared():
    pair = {"base": measured(["no"] * 8, exact), "run": measured(["yes"] * 8, exact, tokens=[2] * 8)}
    found, (note,) = differences(pair, "base", Draws(count=100))
    assert [(each.figure, each.verdict) for each in found] == [("exact", "better")]
    assert note == "run and base make other tokens of the rows, so their losses are not compared"


def test_scores_that_are_no_means_are_scored_again_for_both():
    pair = {"base": measured(["a"] * 8, commonest), "run": measured(list("abcdefgh"), commonest)}
    found, _ = differences(pair, "base", Draws(count=200))
    (share,) = [each for each in found if each.figure == "commonest"]
    assert share.interval.value == 1 / 8 - 1
    assert share.verdict == "worse"
