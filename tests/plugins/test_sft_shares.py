"""What the ranks of a training share out and agree on, learning rates, optimizers: all in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ftcore.api import MASKED, Decision, Loaded, RunError, World
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.sft.batches import ByLength
from ftcore_plugins.sft.checkpoint import read_random_state, write_random_state
from ftcore_plugins.sft.order import StepOrder
from ftcore_plugins.sft.ranks import Filled, RankOrder, Ranks
from ftcore_plugins.sft.rates import parameter_groups
from tiny_kit import SHORT, FakeControl, Tiny, make_run

# Rows


def ranks_of(size: int) -> list[Ranks]:
    return [Ranks(rank=rank, size=size, device=torch.device("cpu")) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("rows", [5, 24, 29, 30])
@pytest.mark.parametrize("micro", [1, 2])
def test_the_ranks_of_a_step_take_the_rows_of_one_process(size: int, rows: int, micro: int) -> None:
    step = 2 * size * micro
    lengths = [7 + row % 5 for row in range(rows)]
    alone = list(StepOrder(lengths, step, seed=3, grouped=2))
    shares = [RankOrder(StepOrder(lengths, step, seed=3, grouped=2), step, micro, rank) for rank in ranks_of(size)]
    taken = [list(share) for share in shares]
    assert {len(share) for share in shares} == {len(part) for part in taken} == {-(-rows // size)} or rows > step
    assert len({len(part) for part in taken}) == 1
    for number, start in enumerate(range(0, rows, step)):
        share = step // size
        of_step = [row for part in taken for row in part[number * share : (number + 1) * share]]
        assert sorted(row for row in of_step if row < rows) == sorted(alone[start : start + step])
        assert {row for row in of_step if row >= rows} <= {rows + alone[min(start + step, rows) - 1]}


def test_a_new_epoch_has_another_order() -> None:
    order = RankOrder(StepOrder([5] * 16, 4, seed=0), 4, 2, ranks_of(2)[0])
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first


def test_a_filled_up_row_is_the_row_without_labels(tiny: Tiny) -> None:
    filled, row = Filled(tiny.data.train), tiny.data.train[3]
    assert filled[3] is row
    assert list(filled[len(filled) + 3].input_ids) == list(row.input_ids)
    assert set(filled[len(filled) + 3].labels) == {MASKED}
    bins = Filled([[row, row]])
    assert [set(example.labels) for example in bins[1]] == [{MASKED}, {MASKED}]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_held_out_rows_are_shared_out_once_each(tiny: Tiny, size: int) -> None:
    batches = ByLength(tiny.data.train, 4, lambda example: len(example.input_ids))
    parts = [list(batches.of(rank)) for rank in ranks_of(size)]
    assert len({len(part) for part in parts}) == 1  # a sharded model takes all of them to run
    counted = sorted(place for part in parts for places, own in part for place in places if own)
    assert counted == list(range(len(tiny.data.train)))


# Worlds


def test_the_batch_is_split_among_the_processes_of_the_run(tiny: Tiny, tmp_path: Path) -> None:
    from ftcore_plugins.sft.arguments import split_batch

    run = make_run(tmp_path, train={"batch_size": 8, "micro_batch_size": 2})
    assert split_batch(run) == (2, 4)
    assert split_batch(attrs.evolve(run, world=World(size=2))) == (2, 2)
    with pytest.raises(RunError, match="8 is not a multiple of micro_batch_size 2 x 3 processes"):
        split_batch(attrs.evolve(run, world=World(size=3)))


def test_a_world_that_accelerate_does_not_see_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    loaded, two = tiny.load(run), attrs.evolve(run, world=World(rank=1, size=2))
    with pytest.raises(RunError, match="this is process 1 of 2, but accelerate takes it for process 0 of 1"):
        Sft(Options()).make_trainer(two, loaded, tiny.data, {})


def test_a_process_that_the_checkpoint_does_not_know_draws_its_own_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(5)
    write_random_state(tmp_path, 0, 1)
    drawn = []
    for process in (0, 1, 2, 1):
        read_random_state(tmp_path, process, 3)
        drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 3
    assert drawn[1] == drawn[3]
    assert "1 processes wrote the checkpoint and 3 go on" in caplog.text


# Learning rates and optimizers


def faster(loaded: Loaded) -> Loaded:
    return attrs.evolve(loaded, rate_factors={r".*lora_B.*": 16.0})


def trainer_of(tiny: Tiny, folder: Path, **train: Any) -> Any:
    run = tiny.run(folder, train={**SHORT, "max_steps": 4, **train})
    loaded = faster(Lora(LoraOptions(r=4)).adapt(run, tiny.load(run)))
    return Sft(Options()).make_trainer(run, loaded, tiny.data, {})


def test_a_factor_multiplies_the_learning_rate_of_what_it_names(tiny: Tiny, tmp_path: Path) -> None:
    trainer, control = trainer_of(tiny, tmp_path, learning_rate=1e-3), FakeControl(tmp_path / "c")
    trainer.train(control, None)
    inner = trainer.inner
    rates = {id(weight): group["lr"] for group in inner.optimizer.param_groups for weight in group["params"]}
    for name, weight in inner.model.named_parameters():
        if weight.requires_grad:
            assert rates[id(weight)] == pytest.approx(16e-3 if "lora_B" in name else 1e-3)
    assert [step.metrics["learning_rate"] for step in control.steps] == pytest.approx([1e-3] * 4)


def test_training_with_factors_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    first = FakeControl(tmp_path / "c", lambda step: Decision(checkpoint=step.number == 2))
    trainer_of(tiny, tmp_path / "a", learning_rate=1e-3).train(first, None)
    again = FakeControl(tmp_path / "d")
    trainer_of(tiny, tmp_path / "a", learning_rate=1e-3).train(again, first.path(2))
    assert again.losses == first.losses[2:]


def test_weights_that_do_not_decay_have_a_group_of_their_own(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train={**SHORT, "weight_decay": 0.1}))
    trainer.train(FakeControl(tmp_path / "c"), None)
    decays = {
        id(weight): group["weight_decay"]
        for group in trainer.inner.optimizer.param_groups
        for weight in group["params"]
    }
    for name, weight in trainer.inner.model.named_parameters():
        assert decays[id(weight)] == (0.0 if "norm" in name else 0.1)


def test_a_factor_that_names_nothing_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(RunError, match="no trained weight is called 'other'"):
        parameter_groups([("weight", weight)], [], {"other": 2.0}, 1e-3, 0.0)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_optimizers_of_bitsandbytes_resume_bit_for_bit(tiny: Tiny, tmp_path: Path, optimizer: str) -> None:
    pytest.importorskip("bitsandbytes")
    train = {**SHORT, "max_steps": 4, "learning_rate": 1e-3, "optimizer": optimizer}
    trainer = tiny.trainer(tiny.run(tmp_path / "a", train=train))
    first = FakeControl(tmp_path / "c", lambda step: Decision(checkpoint=step.number == 2))
    trainer.train(first, None)
    kinds = {state["state1"].dtype for state in trainer.inner.optimizer.state.values()}
    assert (torch.uint8 in kinds) == ("8bit" in optimizer)
    again = tiny.trainer(tiny.run(tmp_path / "a", train=train))
    second = FakeControl(tmp_path / "d")
    again.train(second, first.path(2))
    assert second.losses == first.losses[2:]
    for one, other in zip(trainer.inner.model.parameters(), again.inner.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_optimizer_without_its_package_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ftcore_plugins.common import requirements

    monkeypatch.setattr(requirements, "_found", lambda module: module != "bitsandbytes")
    plugin = Sft(Options())
    assert not plugin.check(make_run(tmp_path))
    (problem,) = plugin.check(make_run(tmp_path, train={"optimizer": "adamw_8bit"}))
    assert problem.key == "train.optimizer"
    assert "pip install 'ftcore[qlora]'" in problem.message


def test_paging_on_a_cpu_is_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path, train={"optimizer": "paged_adamw_8bit"}, hardware={"device": "cpu"})
    assert [(problem.key, problem.severity) for problem in Sft(Options()).check(run)] == [
        ("train.optimizer", "warning")
    ]


def test_each_step_tells_the_most_memory_so_far(tiny: Tiny, tmp_path: Path) -> None:
    control = FakeControl(tmp_path / "c")
    tiny.trainer(tiny.run(tmp_path, train=SHORT)).train(control, None)
    told = [step.metrics["memory"] for step in control.steps]
    assert told == sorted(told)
    assert 0.1 < told[0] < 100
