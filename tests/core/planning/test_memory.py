"""What makes up the memory of a device."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ftcore.planning.memory import Memory, memory, quantized_weights
from ftcore.planning.setting import Sharding
from ftcore.values import Quantization
from planned_models import facts, rows, setting

NF4 = Quantization(name="nf4", options={}, bytes_per_weight=0.5, left_out=("layers.0",))


def planned(rank: int = 4, **changes: Any) -> Memory:
    return memory(facts(rank=rank), setting(**changes))


def test_frozen_weights_are_in_their_type_and_trained_ones_in_float32() -> None:
    known = facts(rank=4)
    found = planned()
    assert (found.weights, found.adapter) == (known.base * 2, known.added * 4)
    assert planned(0).weights == facts().base * 4
    assert planned(weight=4).weights == known.base * 4


def test_quantized_weights_leave_out_the_output_and_what_is_told() -> None:
    small, count = quantized_weights(facts(rank=4), setting(quantization=NF4))
    assert count == 2 * 64 * 64 + 3 * 64 * 256  # the second layer's
    assert small == count / 2
    found = planned(quantization=NF4)
    assert found.quantized == small
    assert found.weights == (facts().base - count) * 2


def test_what_is_left_out_has_the_whole_name() -> None:
    for left_out in ((), ("layer",), ("layers.",), ("layers.00",)):
        quantization = attrs.evolve(NF4, left_out=left_out)
        assert quantized_weights(facts(), setting(quantization=quantization))[1] == 2 * (2 * 64 * 64 + 3 * 64 * 256)


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"), [("adamw", 8), ("adamw_8bit", 2.03), ("sgd", 0), ("paged_adamw", 0)]
)
def test_optimizer_state(optimizer: str, bytes_each: float) -> None:
    assert planned(optimizer=optimizer).optimizer == pytest.approx(facts(rank=4).trained * bytes_each)


def test_paged_state_is_in_host_memory_at_the_worst_moment() -> None:
    assert planned(optimizer="paged_adamw").host == facts(rank=4).trained * 8


def test_checkpointing_trades_activations() -> None:
    assert planned(checkpointing=True).peak < planned().peak
    assert planned(checkpointing=True).activations < planned().activations


def test_activations_grow_with_rows_and_tokens() -> None:
    assert planned(micro=4).activations > 1.9 * planned(micro=2).activations
    assert planned(rows=rows(256)).activations > 1.9 * planned().activations


def test_eager_attention_keeps_the_square_of_the_length() -> None:
    assert planned(attention="eager", rows=rows(2048)).activations > 3 * planned(rows=rows(2048)).activations
    assert planned(attention="flash_attention_2").activations < planned().activations


def test_logits_count_trained_tokens_alone() -> None:
    wide = {"vocab_size": 50000}
    few, many = (memory(facts(rank=4, **wide), setting(rows=rows(trained=count))).logits for count in (64, 128))
    assert many == pytest.approx(2 * few)


def test_accumulation_keeps_gradients_while_the_next_rows_come() -> None:
    assert (planned().gradients, planned(accumulation=2).gradients) == (0, facts(rank=4).trained * 4)


def test_full_training_peaks_where_all_gradients_are_there() -> None:
    small = memory(facts(), setting(rows=rows(8), micro=1))
    assert small.gradients == facts().base * 4


def test_weights_in_float32_are_copied_for_16_bit_arithmetic() -> None:
    assert planned(weight=4).copies > planned(weight=4, autocast=False, compute=4).copies


@pytest.mark.parametrize(
    ("sharding", "whole"),
    [
        (Sharding(parts=4, buckets=True), {"weights", "adapter", "optimizer"}),
        (Sharding(parts=4, optimizer=True, gradients=True, buckets=True), {"weights", "adapter"}),
        (Sharding(parts=4, optimizer=True, gradients=True, weights=True), set()),
    ],
    ids=["ddp", "zero2", "zero3"],
)
def test_shards(sharding: Sharding, whole: set[str]) -> None:
    alone, shared = planned(), planned(sharding=sharding)
    for name in ("weights", "adapter", "optimizer"):
        assert getattr(shared, name) == pytest.approx(getattr(alone, name) / (1 if name in whole else 4))
    assert bool(shared.buckets) == sharding.buckets


def test_offloading_moves_to_the_host() -> None:
    alone = planned()
    found = planned(sharding=Sharding(offload_optimizer=True, offload_weights=True))
    assert (found.weights, found.adapter, found.optimizer) == (0, 0, 0)
    assert found.host == pytest.approx(alone.weights + alone.adapter + alone.optimizer)


def test_peak_is_the_sum_of_its_parts() -> None:
    found = planned()
    parts = [value for name, value in attrs.asdict(found).items() if name != "host"]
    assert found.peak == pytest.approx(sum(parts))
    assert found.tensors == pytest.approx(found.peak - found.context - found.slack)


def test_masters_lie_beside_the_optimizers_states() -> None:
    one, other = planned(0), planned(0, masters=True, autocast=False)
    assert other.weights == one.weights / 2
    assert other.optimizer == one.optimizer + facts().trained * 4


def test_shards_are_gathered_in_the_type_of_the_arithmetic() -> None:
    shards = Sharding(parts=4, optimizer=True, gradients=True, weights=True)
    assert planned(0, sharding=shards).copies < planned(0, sharding=shards, compute=4, autocast=False).copies
