"""A step that does not fit is taken again in smaller parts, from the state at its start."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import Decision, OutOfMemoryError, RunError
from ftcore_plugins.sft.out_of_memory import SMALLER, fewer_rows, is_out_of_memory
from tiny_kit import SHORT, FakeControl, Tiny

FULL = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
WHOLE = {**SHORT, "batch_size": 8, "micro_batch_size": 8}


def holds(model: Any, rows: int, *, backward: bool = False) -> list[int]:
    """Let training fail with over `rows` rows, before anything or late in the backward pass; returns what was tried."""
    tried: list[int] = []

    def refuse(*_: Any) -> None:
        if tried[-1] > rows:
            raise RuntimeError(FULL)

    def forward(module: Any, _: Any, named: Any) -> None:
        if module.training:
            tried.append(named["input_ids"].shape[0])
            if not backward:
                refuse()

    model.register_forward_pre_hook(forward, with_kwargs=True)
    if backward:
        layers = [module for name, module in model.named_modules() if name.endswith("layers.0")]
        layers[0].register_full_backward_hook(refuse)
    return tried


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_does_not_fit_is_taken_in_halves_with_the_same_result(
    tiny: Tiny, tmp_path: Path, backward: bool, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts = FakeControl(tmp_path / "a"), FakeControl(tmp_path / "b")
    tiny.trainer(tiny.run(tmp_path / "a", train=WHOLE)).train(whole, None)
    trainer = tiny.trainer(tiny.run(tmp_path / "b", train=WHOLE))
    tried = holds(trainer.inner.model, 2, backward=backward)
    with caplog.at_level(logging.WARNING, "ftcore.plugins.sft"):
        trainer.train(parts, None)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) <= {1, 2}  # the later steps do not try the whole again
    assert caplog.messages[-1].endswith("set train.micro_batch_size = 2")


def test_micro_batches_that_fitted_are_not_counted_twice(tiny: Tiny, tmp_path: Path) -> None:
    """The second micro-batch of each step fails: the first one's gradients are made again."""
    train = {**SHORT, "batch_size": 8, "micro_batch_size": 4}
    whole, parts = FakeControl(tmp_path / "a"), FakeControl(tmp_path / "b")
    tiny.trainer(tiny.run(tmp_path / "a", train=train)).train(whole, None)
    trainer = tiny.trainer(tiny.run(tmp_path / "b", train=train))
    seen: list[int] = []

    def refuse(module: Any, _: Any, named: Any) -> None:
        if module.training:
            seen.append(named["input_ids"].shape[0])
            if len(seen) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")

    trainer.inner.model.register_forward_pre_hook(refuse, with_kwargs=True)
    trainer.train(parts, None)
    assert seen[:6] == [4, 4, 2, 2, 2, 2]
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert [step.metrics["grad_norm"] for step in parts.steps] == pytest.approx(
        [step.metrics["grad_norm"] for step in whole.steps], rel=1e-3
    )


def test_packed_rows_are_shared_out_by_bins(tiny: Tiny, tmp_path: Path) -> None:
    train = {**SHORT, "batch_size": 4, "packing": True, "max_length": 128}
    whole, parts = FakeControl(tmp_path / "a"), FakeControl(tmp_path / "b")
    tiny.trainer(tiny.run(tmp_path / "a", train=train)).train(whole, None)
    trainer = tiny.trainer(tiny.run(tmp_path / "b", train=train))
    holds(trainer.inner.model, 1)
    trainer.train(parts, None)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


def test_one_row_that_does_not_fit_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=WHOLE))
    holds(trainer.inner.model, 0)
    with pytest.raises(OutOfMemoryError, match=r"out of memory with a micro-batch of one row; use a smaller"):
        trainer.train(FakeControl(tmp_path / "c"), None)


def test_dropout_is_drawn_again_as_at_the_start_of_the_step(tiny: Tiny, tmp_path: Path) -> None:
    def states(fits: bool) -> list[torch.Tensor]:
        trainer, drawn = tiny.trainer(tiny.run(tmp_path, train={**WHOLE, "max_steps": 1})), list[torch.Tensor]()

        def watch(module: Any, _: Any, named: Any) -> None:
            drawn.append(torch.get_rng_state())
            torch.rand(7)
            if not fits and named["input_ids"].shape[0] > 4:
                raise RuntimeError(FULL)

        trainer.inner.model.register_forward_pre_hook(watch, with_kwargs=True)
        trainer.train(FakeControl(tmp_path / "c"), None)
        return drawn

    whole, parts = states(True), states(False)
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(parts[1], whole[0])
    assert not torch.equal(parts[2], whole[0])


@pytest.mark.parametrize("look", ["evaluate", "losses", "generate", "while training"])
def test_an_evaluation_that_does_not_fit_names_its_own_batch(tiny: Tiny, tmp_path: Path, look: str) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=WHOLE))
    control = FakeControl(tmp_path / "c", lambda step: Decision(evaluate=True))

    def fail(module: Any, *_: Any) -> None:
        if not module.training:
            raise RuntimeError(FULL)

    trainer.inner.model.register_forward_pre_hook(fail)
    ways: dict[str, Callable[[], Any]] = {
        "evaluate": trainer.evaluate,
        "losses": lambda: trainer.losses(tiny.data.train),
        "generate": lambda: trainer.generate(tiny.data.train, 2),
        "while training": lambda: trainer.train(control, None),
    }
    with pytest.raises(OutOfMemoryError, match=r"^out of memory; lower train.eval_batch_size; where it is 1, "):
        ways[look]()


def test_several_ranks_end_the_attempt_and_know_what_they_may_go_on_with(tiny: Tiny, tmp_path: Path) -> None:
    """One of them cannot take its step again alone: the others may be in the midst of adding gradients up."""
    for fewer, told in (
        (4, "with a micro-batch of 8 rows; resumed, the run goes on in micro-batches of 4"),
        (0, SMALLER),
    ):
        trainer = tiny.trainer(tiny.run(tmp_path, train=WHOLE))
        trainer.inner._parts._fewer = fewer
        holds(trainer.inner.model, 4)
        with pytest.raises(OutOfMemoryError, match=re.escape(told)) as caught:
            trainer.train(FakeControl(tmp_path / "c"), None)
        assert caught.value.smaller == fewer


def test_a_step_of_the_trainers_own_tells_it_too(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=WHOLE))
    trainer.inner._short_step = False  # as where the model is shared out
    holds(trainer.inner.model, 4)
    with pytest.raises(OutOfMemoryError, match=r"with a micro-batch of 8 rows; lower train.micro_batch_size"):
        trainer.train(FakeControl(tmp_path / "c"), None)


@pytest.mark.parametrize(
    ("micro", "per_step", "fewer"), [(8, 8, 4), (4, 16, 2), (5, 5, 1), (6, 12, 3), (3, 3, 1), (1, 8, 0)]
)
def test_fewer_rows_come_out_whole_with_those_of_a_step(micro: int, per_step: int, fewer: int) -> None:
    assert fewer_rows(micro, per_step) == fewer


def test_another_error_is_not_taken_for_it(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=WHOLE))

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    trainer.inner.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.train(FakeControl(tmp_path / "c"), None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(FULL), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("size mismatch"), False),
        (RunError("out of memory, says a row"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
