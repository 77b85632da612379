"""Every argument and option of the SFT trainer changes the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import RunError
from ftcore.testing import make_run
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options, Sft
from tiny_kit import SHORT, Tiny, train_tiny


def test_arguments_of_plugins_override(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), args={"learning_rate": 0.5, "adam_beta1": 0.1})
    assert (trainer.inner.args.learning_rate, trainer.inner.args.adam_beta1) == (0.5, 0.1)


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated")
def test_a_loss_that_is_not_ours_is_left_to_the_libraries(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    usual = train_tiny(tiny, tmp_path, trainer=tiny.trainer(run))
    smooth = tiny.trainer(run, args={"label_smoothing_factor": 0.2})
    before = smooth.evaluate()
    assert before == pytest.approx(tiny.trainer(run).evaluate())  # held-out loss stays what it says
    smoothed = train_tiny(tiny, tmp_path, trainer=smooth)
    assert abs(smoothed.losses[0] - usual.losses[0]) > 1e-3
    assert [step.metrics["tokens"] for step in smoothed.steps] == [step.metrics["tokens"] for step in usual.steps]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_model_that_takes_no_token_count_trains_the_same(tiny: Tiny, tmp_path: Path, labelled: bool) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    usual = train_tiny(tiny, tmp_path, trainer=tiny.trainer(run))
    loaded = tiny.load(run)
    loaded.model.accepts_loss_kwargs = False
    other = Sft(Options(labelled_logits=labelled)).make_trainer(run, loaded, tiny.data, {})
    assert train_tiny(tiny, tmp_path, trainer=other).losses == pytest.approx(usual.losses, rel=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"learning_rat": 1.0}, "no argument 'learning_rat'; did you mean 'learning_rate'"),
        ({"save_steps": 5}, "'save_steps' is set from the profile's core tables"),
        ({"optim": "nonsense"}, "the trainer refuses its arguments: .*nonsense"),
    ],
)
def test_bad_arguments_are_refused(tiny: Tiny, tmp_path: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        tiny.trainer(tiny.run(tmp_path, train=SHORT), args=args)


@pytest.mark.parametrize(
    "changed", [Options(adam_beta1=0.5), Options(adam_beta2=0.9), Options(neftune_noise=5.0)], ids=str
)
def test_every_option_changes_the_training(tiny: Tiny, tmp_path: Path, changed: Options) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    usual = train_tiny(tiny, tmp_path, trainer=tiny.trainer(run, sft=Options()))
    assert usual.losses == train_tiny(tiny, tmp_path, trainer=tiny.trainer(run, sft=Options())).losses
    assert usual.losses != train_tiny(tiny, tmp_path, trainer=tiny.trainer(run, sft=changed)).losses


@pytest.mark.parametrize("scheduler", ["cosine", "linear"])
def test_the_final_learning_rate_is_where_the_schedule_ends(tiny: Tiny, tmp_path: Path, scheduler: str) -> None:
    table = {**SHORT, "scheduler": scheduler, "learning_rate": 1e-3, "warmup": 0}
    run = tiny.run(tmp_path, train=table)

    def rates(final: float) -> list[float]:
        trainer = tiny.trainer(run, sft=Options(final_learning_rate=final))
        steps = train_tiny(tiny, tmp_path, trainer=trainer).steps
        assert trainer.inner.lr_scheduler.get_last_lr()[0] == pytest.approx(final, abs=1e-12)
        return [step.metrics["learning_rate"] for step in steps]

    whole, ended = rates(0.0), rates(2e-4)
    assert ended == pytest.approx([2e-4 + 0.8 * rate for rate in whole])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"scheduler": "constant"}, "a constant schedule ends where it is"),
        ({"learning_rate": 1e-4}, "0.0002 is not below train.learning_rate = 0.0001"),
    ],
)
def test_a_final_learning_rate_that_cannot_be_is_told(tmp_path: Path, train: dict[str, Any], message: str) -> None:
    found = Sft(Options(final_learning_rate=2e-4)).check(make_run(tmp_path, train=train))
    assert [problem.key for problem in found if message in problem.message] == ["plugin.sft.final_learning_rate"]


def test_full_logits_give_the_same_training(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    usual = train_tiny(tiny, tmp_path, trainer=tiny.trainer(run))
    full = tiny.trainer(run, sft=Options(labelled_logits=False))
    sizes: list[int] = []
    full.inner.model.lm_head.register_forward_hook(lambda m, given, logits: sizes.append(logits.shape[:-1].numel()))
    assert train_tiny(tiny, tmp_path, trainer=full).losses == pytest.approx(usual.losses, rel=1e-4)
    assert sum(sizes) > 2 * sum(step.metrics["tokens"] for step in usual.steps)


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decay": 5.0},
        {"max_grad_norm": 0.01, "optimizer": "sgd"},
        {"optimizer": "sgd"},
        {"optimizer": "adafactor"},
        {"learning_rate": 1e-3},
        {"scheduler": "cosine"},
        {"warmup": 0.5, "scheduler": "constant"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_the_train_table_changes_the_training(tiny: Tiny, tmp_path: Path, changed: dict[str, Any]) -> None:
    base = {"optimizer": "sgd"} if "max_grad_norm" in changed else {}
    usual = train_tiny(tiny, tmp_path, train=base)
    assert train_tiny(tiny, tmp_path, train=changed).losses != usual.losses


def test_activation_checkpointing_changes_no_loss(tiny: Tiny, tmp_path: Path) -> None:
    usual = train_tiny(tiny, tmp_path)
    run = tiny.run(tmp_path, train={**SHORT, "activation_checkpointing": True})
    trainer = tiny.trainer(run)
    saving = train_tiny(tiny, tmp_path, trainer=trainer)
    assert saving.losses == pytest.approx(usual.losses, rel=1e-5)
    assert any(getattr(module, "gradient_checkpointing", False) for module in trainer.inner.model.modules())


def test_the_seed_changes_the_order(tiny: Tiny, tmp_path: Path) -> None:
    assert train_tiny(tiny, tmp_path, run={"seed": 1}).losses != train_tiny(tiny, tmp_path, run={"seed": 2}).losses


def test_trainable_weights_are_float32(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT, model={"dtype": "bfloat16"})
    model = tiny.trainer(run, lora=LoraOptions()).inner.model
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert {p.dtype for p in tiny.trainer(run).inner.model.parameters()} == {torch.float32}
