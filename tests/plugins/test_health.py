"""The signs of `health`: each is told for what it is, once, with the profile's own figures, and each option counts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.api import Notice, Run, Step
from ftcore.testing import make_config, make_run, plugin_faults
from ftcore_plugins.health import Health, Options
from ftcore_plugins.health.machine import Full
from ftcore_plugins.health.signs import Sign
from ftcore_plugins.health.watch import Watch
from ftcore_plugins.health.windows import Window, mean_and_error

PAGE = Path(__file__).parents[2] / "docs" / "health.md"
TOTAL = 1000
Figures = Callable[[int], Mapping[str, float]]


def healthy(number: int) -> dict[str, float]:
    """A run in which nothing is wrong."""
    rng = random.Random(number)
    return {
        "loss": (0.8 + 1.2 * math.exp(-number / 60)) * math.exp(rng.gauss(0, 0.05)),
        "grad_norm": 0.5 * math.exp(rng.gauss(0, 0.3)),
        "learning_rate": 2e-4 * (1 - number / (TOTAL + 1)),
        "tokens": 1000.0,
        "seconds": 2.0,
        "data_seconds": 0.05,
        "system/process_memory": 4.0 - 1.0 * math.exp(-number / 10) + rng.gauss(0, 0.01),
        "system/gpu0/utilization": 95.0,
        "system/gpu0/temperature": 60.0,
    }


def held_out(number: int) -> float:
    return 0.9 + 1.2 * math.exp(-number / 60)


@attrs.define
class Heard:
    """What was told, with the step."""

    notices: list[tuple[int, Notice]]

    @property
    def signs(self) -> list[str]:
        return [str(notice.sign) for _, notice in self.notices]

    def of(self, sign: str) -> Notice:
        [found] = [notice for _, notice in self.notices if notice.sign == sign]
        return found


def play(
    folder: Path,
    changed: Figures = lambda number: {},
    *,
    steps: range = range(1, TOTAL + 1),
    evaluated: Callable[[int], float] = held_out,
    run: Run | None = None,
    plugin: Health | None = None,
    **options: Any,
) -> Heard:
    """Give the plugin a healthy run with some figures changed; an evaluation comes every 100 steps."""
    plugin = plugin or Health(make_config(Options, options))
    run, heard = run or make_run(folder), Heard([])
    for number in steps:
        metrics = {**healthy(number), **changed(number)}
        step = Step(number=number, total=TOTAL, epoch=3 * number / TOTAL, metrics=metrics)
        told = [*plugin.on_step(run, step)]
        if number % 100 == 0:
            told += plugin.on_evaluation(number, {"eval_loss": evaluated(number)})
        heard.notices += [(number, notice) for notice in told]
    return heard


def after(place: int, figures: Figures) -> Figures:
    return lambda number: figures(number) if number > place else {}


def times(name: str, factor: Callable[[int], float]) -> Figures:
    return lambda number: {name: healthy(number)[name] * factor(number)}


SICK: dict[str, Figures] = {
    Sign.GRADIENT_EXPLODING: after(500, times("grad_norm", lambda n: 2 ** min(30, (n - 500) / 4))),
    Sign.GRADIENT_VANISHING: after(500, lambda n: {"grad_norm": 0.0}),
    Sign.GRADIENT_OVERFLOW: after(500, lambda n: {"grad_norm": math.inf if n % 2 else 1.0}),
    Sign.LOSS_RISING: after(500, times("loss", lambda n: 1.6)),
    Sign.LOSS_STUCK: lambda n: {"loss": 2.0 * math.exp(random.Random(n).gauss(0, 0.05))},
    Sign.LOSS_ZERO: after(400, lambda n: {"loss": 0.001}),
    Sign.LOSS_SPIKES: after(300, times("loss", lambda n: 6.0 if n % 20 == 0 else 1.0)),
    Sign.LEARNING_RATE_ZERO: after(500, lambda n: {"learning_rate": 0.0}),
    Sign.DATA_LAGGING: after(200, lambda n: {"data_seconds": 1.0}),
    Sign.GPU_IDLE: after(200, lambda n: {"system/gpu0/utilization": 10.0}),
    Sign.MEMORY_CREEPING: times("system/process_memory", lambda n: 1 + n / 500),
    Sign.THROUGHPUT_DROPPED: after(500, lambda n: {"seconds": 5.0}),
}


def test_a_healthy_run_is_left_alone(tmp_path):
    assert play(tmp_path).signs == []


@pytest.mark.parametrize("sign", SICK)
def test_a_sign_is_told_once_with_advice_and_its_page(tmp_path, sign):
    notice = play(tmp_path, SICK[sign]).of(sign)
    assert notice.text
    assert not notice.text[0].isupper()
    assert notice.advice
    assert notice.page == f"docs/health.md#{sign}"


@pytest.mark.parametrize("sign", SICK)
def test_a_sign_can_be_left_out(tmp_path, sign):
    assert sign not in play(tmp_path, SICK[sign], off=[str(sign)]).signs


def test_every_sign_has_its_section():
    """Also the two that are not health's own."""
    titles = [line.lstrip("# ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("#")]
    anchors = [title.lower().replace(" ", "-") for title in titles]
    assert {*map(str, Sign), "not-a-number", "early-stopping"} <= set(anchors)
    assert len(anchors) == len(set(anchors))


def test_the_plugin_keeps_to_the_rules():
    assert plugin_faults(Health) == []


def test_a_sign_that_is_none_is_a_problem():
    [problem] = Health(Options(off=("overfit", "loss-zero"))).check()
    assert problem.key == "plugin.health.off"
    assert problem.message.startswith("no such sign: overfit (did you mean overfitting?); there are gradient-exploding")


def test_a_sign_that_comes_back_is_told_again(tmp_path):
    def lags(number: int) -> dict[str, float]:
        return {"data_seconds": 1.0} if 200 < number <= 400 or number > 700 else {}

    heard = play(tmp_path, lags)
    assert [number // 100 for number, _ in heard.notices] == [2, 7]
    assert heard.signs == ["data-lagging"] * 2


def test_a_sign_that_flickers_is_told_once(tmp_path):
    flicker = after(200, lambda n: {"data_seconds": 1.0 if n % 60 < 35 else 0.0})
    assert play(tmp_path, flicker).signs == ["data-lagging"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_figure_that_is_missing_or_no_number_is_borne(tmp_path, name, broken):
    def sick(number: int) -> dict[str, Any]:
        return {name: broken} if number % 37 == 0 and broken is not None else {}

    assert play(tmp_path, sick).signs == []


def test_a_trainer_that_tells_little_is_borne(tmp_path):
    plugin, run = Health(Options()), make_run(tmp_path)
    for number in range(1, 200):
        assert plugin.on_step(run, Step(number=number, total=200, epoch=0.0, metrics={})) == []
    assert plugin.on_evaluation(100, {}) == []


# What is said


def test_advice_is_in_the_words_and_figures_of_the_profile(tmp_path):
    run = make_run(tmp_path, train={"learning_rate": 4e-4, "warmup": 0.05}, hardware={"workers": 3})
    rising = play(tmp_path, SICK[Sign.LOSS_RISING], run=run).of("loss-rising")
    assert rising.advice == "set train.learning_rate to 0.0002 (it is 0.0004), or train.warmup to 0.1 (it is 0.05)"
    lagging = play(tmp_path, SICK[Sign.DATA_LAGGING], run=run).of("data-lagging")
    assert lagging.text == "steps wait for their batches for 21% of their 2 seconds"
    assert lagging.advice == "set hardware.workers to 6 (it is 3), or put the data on a faster disk"


def test_gradients_that_are_not_clipped_are_to_be(tmp_path):
    run = make_run(tmp_path, train={"max_grad_norm": 0.0})
    assert "train.max_grad_norm to 1.0" in play(tmp_path, SICK[Sign.GRADIENT_EXPLODING], run=run).notices[0][1].advice


def test_an_idle_gpu_is_fed_by_workers_if_data_lags_and_by_rows_if_not(tmp_path):
    idle = SICK[Sign.GPU_IDLE]
    run = make_run(tmp_path, train={"micro_batch_size": 2})
    assert "train.micro_batch_size (it is 2)" in play(tmp_path, idle, run=run).of("gpu-idle").advice
    both = play(tmp_path, lambda n: {**idle(n), "data_seconds": 1.0}, run=run)
    assert "hardware.workers" in both.of("gpu-idle").advice


def test_a_slow_run_on_a_hot_card_is_told_of_its_heat(tmp_path):
    slow = SICK[Sign.THROUGHPUT_DROPPED]
    hot = play(tmp_path, lambda n: {**slow(n), "system/gpu0/temperature": 91.0})
    assert "a GPU is at 91 degrees Celsius" in hot.of("throughput-dropped").advice
    assert "the GPU is cool" in play(tmp_path, slow).of("throughput-dropped").advice


def test_a_loss_of_zero_is_explained_by_the_passes_and_the_held_out_loss(tmp_path):
    zero = SICK[Sign.LOSS_ZERO]
    assert "known by heart, and the held-out loss is 0.9" in play(tmp_path, zero).of("loss-zero").text
    leak = play(tmp_path, zero, evaluated=lambda n: 0.002).of("loss-zero")
    assert "the held-out loss is as low" in leak.text
    assert "ftcore preview" in leak.advice
    early = play(tmp_path, lambda n: {"loss": 0.001}, steps=range(1, 90)).of("loss-zero")
    assert "before every row was seen once" in early.text


def test_the_memory_of_a_card_may_creep_up_as_well(tmp_path):
    grows = play(tmp_path, lambda n: {"system/gpu0/memory": 5 + n / 100, "system/gpu1/memory": 4.0})
    assert grows.of("memory-creeping").text.startswith("memory of a GPU creeps up: 5.15 GiB at step 11")
    assert play(tmp_path, lambda n: {"system/gpu0/memory": 20.0 - 5 * 0.97**n}).signs == []


# Held-out rows


def turning(number: int) -> float:
    return 1.0 if number <= 300 else 1.0 + (number - 300) / 2000


def test_a_held_out_loss_that_turns_round_is_overfitting(tmp_path):
    notice = play(tmp_path, evaluated=turning).of("overfitting")
    assert "it was 1 at step 100" in notice.text
    assert "train.max_steps" in notice.advice


def test_a_held_out_loss_that_rises_with_the_training_loss_is_not_overfitting(tmp_path):
    both = play(tmp_path, after(300, times("loss", lambda n: 1 + (n - 300) / 500)), evaluated=turning)
    assert "overfitting" not in both.signs


def test_a_held_out_loss_that_wobbles_is_not_overfitting(tmp_path):
    assert play(tmp_path, evaluated=lambda n: held_out(n) * (1.08 if n == 600 else 1.0)).signs == []


def test_held_out_losses_that_stand_still_are_stuck(tmp_path):
    assert play(tmp_path, evaluated=lambda n: 1.5).signs == ["loss-stuck"]


@pytest.mark.parametrize("loss", [9.0, math.inf, math.nan])
def test_a_perplexity_beyond_reason_is_told(tmp_path, loss):
    assert "perplexity" in play(tmp_path, evaluated=lambda n: loss).signs


def test_the_training_loss_tells_of_it_as_well(tmp_path):
    heard = play(tmp_path, lambda n: {"loss": 9.0 + healthy(n)["loss"]}, steps=range(1, 60))
    assert heard.signs == ["perplexity"]


@pytest.mark.parametrize("start", [2.0, 7.5])
def test_a_run_that_diverges_from_its_start_is_told_to_lower_the_rate_and_not_to_look_at_its_rows(tmp_path, start):
    heard = play(
        tmp_path,
        lambda n: {"loss": start if n <= 3 else start * min(n, 8)},
        steps=range(1, 120),
        evaluated=lambda n: 6 * start,
    )
    assert "perplexity" not in heard.signs
    rising = heard.of("loss-rising")
    assert rising.advice == "set train.learning_rate to 2e-05 (it is 0.0002)"
    assert heard.notices[0][0] <= 20, "long before a window is full"


def test_random_weights_that_learn_are_left_alone(tmp_path):
    assert play(tmp_path, lambda n: {"loss": healthy(n)["loss"] + 6.5 * 0.99**n}, steps=range(1, 90)).signs == []


# Options


@pytest.mark.parametrize(
    ("options", "sign", "figures"),
    [
        ({"gradient_factor": 3.0}, Sign.GRADIENT_EXPLODING, times("grad_norm", lambda n: 6.0 if n % 60 < 4 else 1.0)),
        ({"gradient_norm": 3.0}, Sign.GRADIENT_EXPLODING, lambda n: {"grad_norm": 4.0}),
        ({"loss_zero": 0.9}, Sign.LOSS_ZERO, lambda n: {}),
        ({"overfitting": 0.01, "evaluated": lambda n: 1.0 + 0.03 * (n > 200)}, Sign.OVERFITTING, lambda n: {}),
        ({"perplexity": 2.0}, Sign.PERPLEXITY, lambda n: {}),
        ({"data_share": 0.02}, Sign.DATA_LAGGING, lambda n: {}),
        ({"gpu_use": 99.0}, Sign.GPU_IDLE, lambda n: {}),
        ({"memory_growth": 0.02}, Sign.MEMORY_CREEPING, times("system/process_memory", lambda n: 1 + 1e-4 * n)),
        ({"slowdown": 0.8}, Sign.THROUGHPUT_DROPPED, after(500, lambda n: {"seconds": 3.0})),
        ({"disk_free": 1e9}, Sign.DISK_FULL, lambda n: {}),
        ({"window": 10}, Sign.DATA_LAGGING, lambda n: {"data_seconds": 1.0 if 200 < n <= 215 else 0.0}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_moves_its_threshold(tmp_path, options, sign, figures):
    given = {name: value for name, value in options.items() if name != "evaluated"}
    evaluated = options.get("evaluated", held_out)
    assert sign not in play(tmp_path, figures, evaluated=evaluated).signs
    assert sign in play(tmp_path, figures, evaluated=evaluated, **given).signs


def test_a_rise_may_be_allowed(tmp_path):
    assert "loss-rising" not in play(tmp_path, SICK[Sign.LOSS_RISING], loss_rise=1.0).signs


def test_a_disk_must_have_room_for_a_checkpoint(tmp_path):
    run = make_run(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(2**20))
    step = Step(number=1, total=9, epoch=0.0, metrics={"system/process_memory": 1.0})
    for free, full in ((1.0005, True), (1.002, False)):
        finding = Full(run, Options(), free=lambda folder, free=free: free).step(step)
        assert bool(finding) is full
    assert "a checkpoint takes 0.00098 GiB" in Full(run, Options(), free=lambda folder: 0.5).step(step).text


# Going on


def write_history(folder: Path, figures: Figures, last: int) -> None:
    """`metrics.jsonl` of a run that was cut to `last`."""
    with (folder / "metrics.jsonl").open("w") as file:
        for number in range(1, last + 1):
            metrics = {**healthy(number), **figures(number)}
            file.write(json.dumps({"step": number, "time": 1e9 + number, "epoch": 0.1, **metrics}) + "\n")
            if number % 100 == 0:
                file.write(json.dumps({"step": number, "time": 1e9 + number, "eval_loss": held_out(number)}) + "\n")


def resumed(folder: Path) -> Run:
    return attrs.evolve(make_run(folder), resumed=True)


@pytest.mark.parametrize("last", [3, 40, 333, 600])
def test_a_run_that_goes_on_raises_no_false_alarm(tmp_path, last):
    write_history(tmp_path, lambda n: {}, last)

    def warming(number: int) -> dict[str, float]:
        """The first steps of a process are slow, and it holds less memory than the one before."""
        return {"data_seconds": 20.0, "seconds": 22.0} if number <= last + 5 else {"system/process_memory": 2.0}

    assert play(tmp_path, warming, steps=range(last + 1, TOTAL + 1), run=resumed(tmp_path)).signs == []


def test_a_run_that_goes_on_knows_where_it_was(tmp_path):
    """A loss that rises after the start is over what it was before it."""
    write_history(tmp_path, lambda n: {}, 500)
    heard = play(tmp_path, SICK[Sign.LOSS_RISING], steps=range(501, TOTAL + 1), run=resumed(tmp_path))
    assert "up to step 450" in heard.of("loss-rising").text


def test_what_was_told_before_is_not_told_again(tmp_path):
    sick = SICK[Sign.LEARNING_RATE_ZERO]
    write_history(tmp_path, sick, 600)
    assert play(tmp_path, sick, steps=range(601, TOTAL + 1), run=resumed(tmp_path)).signs == []


def test_a_new_run_reads_no_journal(tmp_path):
    write_history(tmp_path, SICK[Sign.LEARNING_RATE_ZERO], 600)
    assert play(tmp_path, SICK[Sign.LEARNING_RATE_ZERO]).signs == ["learning-rate-zero"]


# What it is made of


def test_a_window_is_what_adding_up_would_give():
    rng, window, values = random.Random(1), Window(20), []
    for _ in range(200):
        values.append(rng.gauss(3, 1))
        window.add(values[-1])
    mean, error = mean_and_error(values[-20:])
    assert window.mean == pytest.approx(sum(values[-20:]) / 20)
    assert (window.mean, window.error) == (pytest.approx(mean), pytest.approx(error))


def test_the_error_of_a_mean_knows_of_values_that_follow_each_other():
    rng, state, apart, following = random.Random(1), 0.0, [], []
    for _ in range(4000):
        state = 0.8 * state + 0.6 * rng.gauss(0, 1)
        apart.append(rng.gauss(0, 1))
        following.append(state)
    assert mean_and_error(apart)[1] == pytest.approx(1 / math.sqrt(4000), rel=0.1)
    assert mean_and_error(following)[1] == pytest.approx(3 / math.sqrt(4000), rel=0.2)
    assert mean_and_error([2.0] * 10) == (2.0, 0.0)


def test_watching_asks_what_it_is_given_and_no_more():
    assert Watch([], 10).step(Step(number=1, total=1, epoch=0.0, metrics={})) == []
