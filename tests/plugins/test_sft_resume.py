"""A resumed training gives the bits of an uninterrupted one; checkpoints hold no pickle and are complete."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftcore.api import Decision, RunError, Step
from ftcore_plugins.lora import Options as LoraOptions
from tiny_kit import FakeControl, Tiny

# 21 rows in steps of 8: three steps an epoch, the last of five rows.
STEPS = 7
TRAIN = {"max_steps": STEPS, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-3}


def checkpoint_at(*numbers: int, stop: bool = False) -> Callable[[Step], Decision]:
    return lambda step: Decision(
        checkpoint=step.number in numbers, stop=stop and step.number == max(numbers), evaluate=step.number == 1
    )


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.inner.model.named_parameters()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@pytest.mark.parametrize("lora", [None, LoraOptions(dropout=0.2)], ids=["full", "lora"])
@pytest.mark.parametrize("stop", [3, 4, 7], ids=["epoch boundary", "in the epoch", "last step"])
def test_resume_is_bit_equal(tiny: Tiny, tmp_path: Path, lora: LoraOptions | None, stop: int) -> None:
    whole = tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=lora)
    unbroken = FakeControl(tmp_path / "whole")
    assert whole.train(unbroken, None) == STEPS

    first = FakeControl(tmp_path / "first", checkpoint_at(stop, stop=True))
    assert tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=lora).train(first, None) == stop
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # a resume must not lean on these
    again = tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=lora)
    again.evaluate()
    second = FakeControl(tmp_path / "second")
    assert again.train(second, first.path(stop)) == STEPS

    assert [step.number for step in first.steps + second.steps] == list(range(1, STEPS + 1))
    assert first.losses + second.losses == unbroken.losses
    for name in ("learning_rate", "grad_norm", "tokens"):
        broken = [step.metrics[name] for step in first.steps + second.steps]
        assert broken == [step.metrics[name] for step in unbroken.steps]
    assert [step.epoch for step in first.steps + second.steps] == [step.epoch for step in unbroken.steps]
    assert_same(weights_of(whole), weights_of(again))


@pytest.mark.parametrize(
    "changed",
    [{"optimizer": "adafactor"}, {"optimizer": "sgd"}, {"precision": "bf16"}, {"activation_checkpointing": True}],
    ids=str,
)
def test_other_trainings_resume_too(tiny: Tiny, tmp_path: Path, changed: dict[str, Any]) -> None:
    train = {**TRAIN, **changed, "max_steps": 4}
    whole = tiny.trainer(tiny.run(tmp_path / "a", train=train))
    control = FakeControl(tmp_path / "c", checkpoint_at(2))
    whole.train(control, None)
    again = tiny.trainer(tiny.run(tmp_path / "a", train=train))
    second = FakeControl(tmp_path / "d")
    again.train(second, control.path(2))
    assert second.losses == control.losses[2:]
    assert_same(weights_of(whole), weights_of(again))


def test_loader_workers_change_no_bit(tiny: Tiny, tmp_path: Path) -> None:
    train = {**TRAIN, "max_steps": 4}
    alone = FakeControl(tmp_path / "c")
    tiny.trainer(tiny.run(tmp_path / "a", train=train), lora=LoraOptions(dropout=0.2)).train(alone, None)
    run = tiny.run(tmp_path / "a", train=train, hardware={"workers": 2})
    helped = FakeControl(tmp_path / "d", checkpoint_at(2))
    tiny.trainer(run, lora=LoraOptions(dropout=0.2)).train(helped, None)
    assert helped.losses == alone.losses
    resumed = FakeControl(tmp_path / "e")
    tiny.trainer(run, lora=LoraOptions(dropout=0.2)).train(resumed, helped.path(2))
    assert resumed.losses == alone.losses[2:]


@pytest.mark.parametrize("lora", [None, LoraOptions(dropout=0.2)], ids=["full", "lora"])
def test_looking_at_the_model_on_the_way_changes_no_bit(tiny: Tiny, tmp_path: Path, lora: LoraOptions | None) -> None:
    plain = FakeControl(tmp_path / "plain")
    whole = tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=lora)
    whole.train(plain, None)
    looking = FakeControl(tmp_path / "looking", lambda step: Decision(evaluate=True, checkpoint=step.number == 4))
    trainer = tiny.trainer(tiny.run(tmp_path / "a", train={**TRAIN, "eval_batch_size": 3}), lora=lora)
    looking.during = lambda: (
        trainer.generate(tiny.data.validation, 4),
        trainer.generate(tiny.data.validation, 4, 1.0),
        trainer.losses(tiny.data.train),
    )
    trainer.train(looking, None)
    assert looking.losses == plain.losses
    assert_same(weights_of(whole), weights_of(trainer))
    resumed = FakeControl(tmp_path / "resumed")
    tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=lora).train(resumed, looking.path(4))
    assert resumed.losses == plain.losses[4:]


@pytest.fixture(scope="module")
def committed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("committed")
    control = FakeControl(folder / "c", checkpoint_at(2, stop=True))
    tiny.trainer(tiny.run(folder / "a", train=TRAIN), lora=LoraOptions(r=4)).train(control, None)
    return control.path(2)


def test_a_checkpoint_is_safetensors_and_json(committed: Path) -> None:
    files = [path for path in committed.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    # torch.save writes a zip with `data.pkl`, pickle begins with 0x80: neither under another name.
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")]


def test_a_checkpoint_lacking_any_file_is_refused(tiny: Tiny, tmp_path: Path, committed: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=LoraOptions(r=4))
    control = FakeControl(tmp_path / "c")
    for path in sorted(committed.iterdir()):
        moved = path.rename(path.with_suffix(".away"))
        with pytest.raises(RunError, match=f"lacks {path.name}"):
            trainer.train(control, committed)
        moved.rename(path)
    assert control.steps == []


def test_a_checkpoint_of_another_model_is_refused(tiny: Tiny, tmp_path: Path, committed: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path / "a", train=TRAIN), lora=LoraOptions(r=8))
    with pytest.raises(RunError, match=r"of another model: .*lora"):
        trainer.train(FakeControl(tmp_path / "c"), committed)


def test_a_state_that_is_not_finite_is_not_committed(tiny: Tiny, tmp_path: Path) -> None:
    """A huge rate breaks the weights in an update whose loss and gradient were still fine."""
    run = tiny.run(tmp_path, train={**TRAIN, "learning_rate": 1e300, "warmup": 0.0})
    control = FakeControl(tmp_path / "checkpoints", checkpoint_at(1, 2))
    with pytest.raises(RunError, match=r"infinite or not a number; lower train\.learning_rate"):
        tiny.trainer(run).train(control, None)
    assert not list((tmp_path / "checkpoints").glob("step-*"))
