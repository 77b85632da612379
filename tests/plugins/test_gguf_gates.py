"""Gates grow with how much rounding does to a model, which the reference has measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ftcore_plugins.common.answering import Answering
from ftcore_plugins.common.proof.reference import Passage, Reference
from ftcore_plugins.gguf.gates import LIMITS, UNKNOWN, gate_of
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.reference.sensitivity import _layers, sensitivity
from tiny_kit import Tiny

BROKEN_ROPE = 9e-3


def asked(sensitivity: float, *, exact: bool = True) -> Reference:
    return Reference(vocabulary=3, exact=exact, sensitivity=sensitivity)


def gate(quantization: str, given: Reference, *, rounded: bool = False) -> float:
    return gate_of(quantization, rounded=rounded, asked=given).kl_mean


def test_on_a_model_of_usual_weights_every_gate_finds_a_broken_rope() -> None:
    for quantization in LIMITS:
        assert gate(quantization, asked(2e-6)) < BROKEN_ROPE
    assert gate("f16", asked(2e-6)) == 1e-5


def test_gates_grow_with_the_sensitivity_and_with_fewer_bits() -> None:
    for quantization in LIMITS:
        assert gate(quantization, asked(1e-3)) == pytest.approx(LIMITS[quantization].factor * 1e-3)
    gates = [gate(quantization, asked(1e-3)) for quantization in ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m")]
    assert gates == sorted(gates)


def test_no_model_is_so_sensitive_that_everything_passes() -> None:
    for quantization in (*LIMITS, "q2_k"):
        assert (
            gate(quantization, asked(1e-2)) <= gate(quantization, asked(1.0)) == gate(quantization, asked(9.0)) <= 2.0
        )


def test_what_the_reference_leaves_open_widens_every_gate() -> None:
    for quantization in LIMITS:
        assert gate(quantization, asked(2e-6, exact=False)) >= gate(quantization, asked(2e-6)) + 5e-4
    assert gate("f16", asked(2e-6), rounded=True) == gate("bf16", asked(2e-6)) == 5e-4
    assert gate("q8_0", asked(2e-6), rounded=True) == gate("q8_0", asked(2e-6))


def test_an_older_reference_has_none() -> None:
    assert gate("q4_k_m", asked(0.0)) == gate("q4_k_m", asked(UNKNOWN))


# The sensitivity itself


def passages(tuned: Answering, ids: list[int]) -> list[Passage]:
    [answer] = tuned.distributions(ids, [len(ids) - 1])
    rows = answer.log_probabilities[None]
    return [Passage(ids=tuple(ids), positions=(len(ids) - 1,), log_probabilities=rows)]


def answering(tiny: Tiny, model: Any) -> tuple[Answering, list[Passage]]:
    tuned = Answering(model=model, processor=tiny.tokenizer)
    return tuned, passages(tuned, list(tiny.data.train[0].input_ids))


def test_it_is_the_same_each_time_and_leaves_the_model_alone(tiny: Tiny, tmp_path: Any) -> None:
    tuned, asked_at = answering(tiny, tiny.load(tiny.run(tmp_path)).model)
    state = torch.get_rng_state()
    first, second = (sensitivity(tuned, asked_at) for _ in range(2))
    assert first == second > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in tuned.model.modules())
    assert passages(tuned, list(asked_at[0].ids))[0].log_probabilities == pytest.approx(asked_at[0].log_probabilities)


def test_smaller_weights_are_less_sensitive(tiny: Tiny, tmp_path: Any) -> None:
    model = tiny.load(tiny.run(tmp_path)).model
    before = sensitivity(*answering(tiny, model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5 if parameter.dim() > 1 else 1.0)
    assert sensitivity(*answering(tiny, model)) < before / 2


def test_a_layer_with_an_adapter_is_shaken_once(tiny: Tiny, tmp_path: Any) -> None:
    loaded = tiny.load(tiny.run(tmp_path))
    plain = len(list(_layers(loaded.model)))
    adapted = Lora(LoraOptions(modules_to_save=("lm_head",))).adapt(tiny.run(tmp_path), loaded)
    assert len(list(_layers(adapted.model))) == plain == 2 * 7 + 1
