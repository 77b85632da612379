"""The SFT trainer's steps: what is reported, what stops it, and that the engine's decisions are obeyed."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ftcore.api import MASKED, Decision, RunError
from ftcore_plugins.sft import Options, Sft
from tiny_kit import SHORT, FakeControl, Tiny, plain_loss, train_tiny

# Steps


def test_each_step_is_reported_once_with_floats(tiny: Tiny, tmp_path: Path) -> None:
    control = train_tiny(tiny, tmp_path)
    assert [step.number for step in control.steps] == [1, 2, 3]
    assert {step.total for step in control.steps} == {3}
    assert [step.epoch for step in control.steps] == pytest.approx([2 / 6, 4 / 6, 1.0])
    for step in control.steps:
        learned, spent = (
            {"loss", "learning_rate", "grad_norm", "tokens"},
            {"tokens_per_second", "seconds", "data_seconds"},
        )
        assert set(step.metrics) == {*learned, *spent, "memory"}
        assert 0 < step.metrics["data_seconds"] < step.metrics["seconds"]
        assert step.metrics["tokens"] / step.metrics["seconds"] == pytest.approx(step.metrics["tokens_per_second"])
        assert all(type(value) is float and math.isfinite(value) for value in step.metrics.values())
    # One epoch: every trained token was counted once.
    counted = sum(label != MASKED for example in tiny.data.train for label in example.labels)
    assert sum(step.metrics["tokens"] for step in control.steps) == counted


def test_the_loss_is_the_mean_over_the_trained_tokens_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    # One step over all rows, in micro-batches whose token counts differ.
    run = tiny.run(tmp_path, train={**SHORT, "max_steps": 1, "batch_size": 24, "micro_batch_size": 2})
    expected = plain_loss(tiny, tiny.load(run).model, list(tiny.data.train))
    control = FakeControl(tmp_path / "c")
    tiny.trainer(run).train(control, None)
    assert control.losses[0] == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_the_learning_rate_is_that_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    control = train_tiny(tiny, tmp_path, train={"scheduler": "linear", "warmup": 2, "max_steps": 4})
    assert [step.metrics["learning_rate"] for step in control.steps] == pytest.approx([0, 5e-3, 1e-2, 5e-3])


def test_accumulation_does_not_change_the_result(tiny: Tiny, tmp_path: Path) -> None:
    whole = train_tiny(tiny, tmp_path / "a", train={"micro_batch_size": None})
    parts = train_tiny(tiny, tmp_path / "b", train={"micro_batch_size": 2})
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert [step.metrics["tokens"] for step in parts.steps] == [step.metrics["tokens"] for step in whole.steps]


def test_a_step_has_the_same_rows_however_it_is_split(tiny: Tiny, tmp_path: Path) -> None:
    def rows_of_steps(micro: int) -> list[set[str]]:
        run = tiny.run(tmp_path, train={**SHORT, "max_steps": 5, "micro_batch_size": micro})
        trainer, seen = tiny.trainer(run), []
        control = FakeControl(tmp_path / "c", lambda step: seen.append(set(trainer.inner._tally.origins)) or Decision())
        trainer.train(control, None)
        return seen

    whole = rows_of_steps(8)
    assert whole == rows_of_steps(2)
    assert set.union(*whole[:3]) == {example.origin for example in tiny.data.train}
    assert whole[0] != whole[3]  # another order in the second epoch


def test_epochs_become_steps(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train={"epochs": 1.5, "batch_size": 8, "micro_batch_size": 4})
    trainer = tiny.trainer(run)
    assert trainer.total_steps == 5  # 1.5 x ceil(21 / 8)
    control = FakeControl(tmp_path / "c")
    assert trainer.train(control, None) == len(control.steps) == 5


def test_decisions_are_obeyed_in_order(tiny: Tiny, tmp_path: Path) -> None:
    events: list[str] = []

    class Watching(FakeControl):
        def evaluated(self, step: int, metrics: Any) -> Decision:
            events.append(f"evaluated {step}")
            return Decision()

        def checkpoint(self, step: int) -> Any:
            events.append(f"checkpoint {step}")
            return super().checkpoint(step)

    control = Watching(tmp_path / "c", lambda step: Decision(evaluate=True, checkpoint=True, stop=step.number == 2))
    assert tiny.trainer(tiny.run(tmp_path, train=SHORT)).train(control, None) == 2
    assert events == ["evaluated 1", "checkpoint 1", "evaluated 2", "checkpoint 2"]
    assert len(control.steps) == 2


@pytest.mark.parametrize("asked", [Decision(checkpoint=True), Decision(checkpoint=True, stop=True)])
def test_an_evaluation_may_ask_for_a_checkpoint_and_a_stop(tiny: Tiny, tmp_path: Path, asked: Decision) -> None:
    class Asking(FakeControl):
        def evaluated(self, step: int, metrics: Any) -> Decision:
            return asked

    control = Asking(tmp_path / "c", lambda step: Decision(evaluate=step.number == 2))
    last = tiny.trainer(tiny.run(tmp_path, train=SHORT)).train(control, None)
    assert control.path(2).is_dir()
    assert last == len(control.steps) == (2 if asked.stop else 3)


def test_the_time_of_an_evaluation_is_not_that_of_a_step(tiny: Tiny, tmp_path: Path) -> None:
    control = FakeControl(tmp_path / "c", lambda step: Decision(evaluate=True))
    control.during = lambda: time.sleep(2)
    tiny.trainer(tiny.run(tmp_path, train=SHORT)).train(control, None)
    assert all(step.metrics["tokens"] / step.metrics["tokens_per_second"] < 1.5 for step in control.steps)


# Guards


def test_a_broken_loss_stops_before_the_optimizer(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT))
    model = trainer.inner.model
    forward, calls = model.forward, []

    def broken(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        calls.append(1)
        if len(calls) == 4:  # the second micro-batch of the second step
            outputs.logits = outputs.logits * float("nan")
        return outputs

    model.forward = broken
    weights: list[torch.Tensor] = []
    control = FakeControl(tmp_path / "c", lambda step: weights.append(model.lm_head.weight.clone()) or Decision())
    with pytest.raises(RunError, match=r"step 2: the loss is nan.*rows\.jsonl:\d+, rows\.jsonl") as caught:
        trainer.train(control, None)
    notice = caught.value.notice
    assert notice is not None
    assert len(set(notice.text.partition("rows: ")[2].split(", "))) == 8
    assert notice.advice == "look at these rows, or set train.learning_rate to 0.001 or less"
    assert str(caught.value) == f"{notice.text}; {notice.advice} (docs/health.md#not-a-number)"
    assert torch.equal(weights[-1], model.lm_head.weight)
    assert len(control.steps) == 1
    assert not control.folder.exists()


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_broken_gradient_stops_before_the_optimizer(tiny: Tiny, tmp_path: Path, max_grad_norm: float) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train={**SHORT, "max_grad_norm": max_grad_norm}))
    weight = trainer.inner.model.lm_head.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(RunError, match=r"step 1: the gradient norm is (inf|nan).*rows.jsonl:") as caught:
        trainer.train(FakeControl(tmp_path / "c"), None)
    assert torch.equal(weight, before)
    assert ("train.max_grad_norm to 1.0" in str(caught.value)) is (not max_grad_norm)


def test_the_wait_for_batches_is_part_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    def slow(examples: Any) -> Any:
        time.sleep(0.05)
        return tiny.data.collate(examples)

    control = train_tiny(
        tiny,
        tmp_path,
        trainer=tiny.trainer(tiny.run(tmp_path, train=SHORT), data=attrs.evolve(tiny.data, collate=slow)),
    )
    assert all(0.05 < step.metrics["data_seconds"] < step.metrics["seconds"] for step in control.steps)


def test_a_model_without_trainable_weights_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    loaded = tiny.load(run)
    loaded.model.requires_grad_(False)
    with pytest.raises(RunError, match="no trainable weights"):
        Sft(Options()).make_trainer(run, loaded, tiny.data, {})


def test_a_model_that_trl_refuses_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    loaded = tiny.load(run)
    loaded.model.is_quantized = True
    with pytest.raises(RunError, match=r"the trainer refuses this model: .*quantized"):
        Sft(Options()).make_trainer(run, loaded, tiny.data, {})


def test_a_batch_must_split(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train={"batch_size": 8, "micro_batch_size": 3})
    with pytest.raises(RunError, match="8 is not a multiple of micro_batch_size 3"):
        tiny.trainer(run)
    roomy = tiny.trainer(tiny.run(tmp_path, train={"batch_size": 2, "micro_batch_size": 4})).inner.args
    assert (roomy.per_device_train_batch_size, roomy.gradient_accumulation_steps) == (2, 1)
