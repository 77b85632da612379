"""What a profile comes to on a kind of device."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ftcore.planning import setting as module
from ftcore.planning.budget import budget_of
from ftcore.planning.memory import memory
from ftcore.planning.setting import Setting, Sharding, setting_of, sharding_of
from ftcore.tables import HardwareTable, ModelTable, TrainTable
from ftcore.values import Profile
from planned_models import facts, rows


def profile(**tables: Any) -> Profile:
    known = {"hardware": HardwareTable, "model": ModelTable, "train": TrainTable}
    return Profile(**{name: known[name](**values) for name, values in tables.items()})


def chosen(parts: int = 1, **tables: Any) -> Setting:
    return setting_of(profile(**tables), rows(), None, {}, parts)


@pytest.mark.parametrize(
    ("device", "tables", "expected"),
    [
        ("cpu", {}, (4, 4, False)),
        ("cuda", {}, (2, 2, True)),
        ("cuda", {"train": {"precision": "fp16"}}, (4, 2, True)),
        ("cuda", {"train": {"precision": "fp32"}}, (2, 2, False)),
        ("cuda", {"train": {"precision": "fp32"}, "model": {"dtype": "float32"}}, (4, 4, False)),
        ("cpu", {"model": {"dtype": "bfloat16"}}, (2, 2, False)),
    ],
)
def test_types(device: str, tables: dict[str, Any], expected: tuple[int, int, bool]) -> None:
    found = chosen(hardware={"device": device}, **tables)
    assert (found.weight, found.compute, found.autocast) == expected


@pytest.mark.parametrize(
    ("train", "parts", "expected"),
    [
        ({"batch_size": 8}, 1, (8, 1)),
        ({"batch_size": 8, "micro_batch_size": 2}, 1, (2, 4)),
        ({"batch_size": 8, "micro_batch_size": 16}, 1, (8, 1)),
        ({"batch_size": 8, "micro_batch_size": 1}, 4, (1, 2)),
    ],
)
def test_batch(train: dict[str, Any], parts: int, expected: tuple[int, int]) -> None:
    found = chosen(parts, hardware={"device": "cpu"}, train=train)
    assert (found.micro, found.accumulation) == expected


def test_device_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_memory_gib", lambda: [24.0, 24.0])
    assert module.device_of(profile()) == "cuda"
    assert module.processes_of(profile(hardware={"processes": 0, "machines": 2})) == 4
    monkeypatch.setattr(module, "nvidia_memory_gib", lambda: [])
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    assert module.device_of(profile()) == "cpu"


def zero(stage: int, **offload: str) -> dict[str, Any]:
    places = {f"offload_{name}": {"device": place} for name, place in offload.items()}
    return {"deepspeed": {"zero_optimization": {"stage": stage, **places}}}


def test_sharding_by_the_trainers_arguments() -> None:
    assert sharding_of({}, 2) == Sharding(parts=2, buckets=True)
    two, three = sharding_of(zero(2), 2), sharding_of(zero(3), 2)
    assert (two.optimizer, two.gradients, two.weights) == (True, True, False)
    assert three.weights
    assert sharding_of({"fsdp": True, "fsdp_config": {"reshard_after_forward": True}}, 2).weights
    assert not sharding_of({"fsdp": True, "fsdp_config": {"reshard_after_forward": False}}, 2).weights


def test_offloading_by_the_trainers_arguments() -> None:
    found = sharding_of(zero(3, optimizer="cpu", param="none"), 1)
    assert (found.offload_optimizer, found.offload_weights) == (True, False)
    assert sharding_of({"fsdp": True, "fsdp_config": {"cpu_offload": True}}, 2).offload_weights


def test_budget_is_what_the_profile_says() -> None:
    found = budget_of(profile(hardware={"device": "cuda", "memory": 24.0, "tflops": 165.2, "card": "RTX 4090"}))
    assert (found.memory, found.tflops, found.name, found.named) == (24 * 2**30, 165.2, "RTX 4090", True)


def test_budget_of_this_machine() -> None:
    found = budget_of(profile(hardware={"device": "cpu"}))
    assert (found.named, found.name) == (False, "the processor")
    assert (found.memory or 0) > 2**30


def test_deepspeed_keeps_trained_weights_in_16_bits() -> None:
    known, shape = facts(), rows()
    half = setting_of(profile(hardware={"device": "cuda"}), shape, None, zero(3), 2)
    assert (half.masters, half.autocast, half.trained, half.weight) == (True, False, 2, 2)
    exact = setting_of(profile(hardware={"device": "cuda"}, train={"precision": "fp32"}), shape, None, zero(3), 2)
    assert (exact.masters, exact.trained) == (False, 4)
    alone = attrs.evolve(half, sharding=Sharding())
    assert memory(known, alone).copies < memory(known, attrs.evolve(alone, masters=False, autocast=True)).copies
