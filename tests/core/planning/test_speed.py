"""Arithmetic and time, and what is written to disk."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ftcore.planning.setting import Sharding
from ftcore.planning.speed import efficiency, operations, speed
from ftcore.planning.storage import storage
from ftcore.values import Quantization
from planned_models import facts, rows, setting

LINEAR = 2 * (2 * 64 * 64 + 3 * 64 * 256)
HEAD = 64 * 100


def test_six_operations_a_weight_and_token_when_all_is_trained() -> None:
    one = setting(rows=rows(1))
    attention = 2 * 3 * 4 * 64 * 0.5
    assert operations(facts(), one) == pytest.approx(6 * (LINEAR + HEAD) + attention)


def test_frozen_weights_have_no_gradient() -> None:
    assert 4 * LINEAR < operations(facts(rank=4), setting(rows=rows(1))) < 5.5 * LINEAR


def test_checkpointing_adds_a_forward_pass() -> None:
    ratio = operations(facts(), setting(checkpointing=True)) / operations(facts(), setting())
    assert ratio == pytest.approx(8 / 6, rel=0.05)


def test_only_trained_tokens_reach_the_output_layer() -> None:
    assert operations(facts(), setting(rows=rows(typical_trained=1))) < operations(facts(), setting())


def test_time() -> None:
    found = speed(facts(), setting(micro=2, accumulation=4), tflops=100, steps=3600)
    assert found.step_seconds == pytest.approx(8 * found.operations / (100e12 * found.efficiency))
    assert found.hours == pytest.approx(found.step_seconds)
    assert found.tokens_per_second == pytest.approx(8 * 128 / found.step_seconds)


def test_without_a_rate_there_are_operations_only() -> None:
    found = speed(facts(), setting(), tflops=None, steps=10)
    assert (found.tokens_per_second, found.hours, found.operations > 0) == (None, None, True)


def test_devices_add_up() -> None:
    one, four = (speed(facts(), setting(sharding=Sharding(parts=parts)), tflops=1, steps=1) for parts in (1, 4))
    assert four.tokens_per_second == pytest.approx(4 * (one.tokens_per_second or 0))


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({"quantization": Quantization(name="nf4", options={}, bytes_per_weight=0.5)}, 0.75),
        ({"autocast": False, "compute": 4}, 0.5),
    ],
)
def test_what_slows_a_card_down(changes: dict[str, Any], less: float) -> None:
    known = facts(rank=4)
    assert efficiency(known, setting(**changes)) == pytest.approx(less * efficiency(known, setting()))


def test_disk() -> None:
    known = facts(rank=4)
    found = storage(known, setting(), checkpoints=2, exports=77)
    assert found.checkpoint == known.trained * 12
    assert found.checkpoints == 3 * found.checkpoint
    assert (found.result, found.exports) == (known.trained * 4, 77)
    assert storage(known, setting(optimizer="adamw_8bit"), checkpoints=2, exports=0).checkpoint < found.checkpoint
    assert storage(facts(), setting(), checkpoints=1, exports=0).result == facts().base * 4


def test_only_the_experts_of_a_token_take_time() -> None:
    known, one = facts(), setting(rows=rows(1))
    routed = attrs.evolve(known, text=attrs.evolve(known.text, experts=1000.0))
    assert operations(routed, one) - operations(known, one) == pytest.approx(6 * 1000 * known.text.blocks)
    shared = attrs.evolve(known, layers=tuple(attrs.evolve(layer, share=0.25) for layer in known.layers))
    assert operations(shared, one) < 0.5 * operations(known, one)
