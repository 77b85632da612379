"""QLoRA on a CPU: evaluations change nothing, a resumed run is bit-equal, the merged model is the trained one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ftcore.api import Artifact, Decision, Loaded, Row, Rows, Run, Verdict
from ftcore.parameters import count_parameters
from ftcore_plugins.common.adapters import adapter
from ftcore_plugins.common.merging import weights as merging
from ftcore_plugins.huggingface import HuggingFace
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.qlora import Options, QLora
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from proof_kit import merge
from qlora_kit import STEPS, load, losses, run_of, train
from tiny_kit import SHORT, Tiny, make_run, prepare

KINDS = [
    {},
    {"quant_type": "fp4", "double_quantization": False},
    {"bits": 8},
    {"dropout": 0.2, "dora": True},
    {"init": "loftq"},
    {"init": "pissa", "rslora": True},
]


@attrs.frozen
class Tuned:
    """A model that was trained for `STEPS` without a break, its losses, and the adapter that was saved."""

    run: Run
    loaded: Loaded
    losses: list[float]
    saved: Path

    def merge(self, tiny: Tiny) -> Artifact:
        return merge(self.run, self.loaded, tiny.data, self.saved, dtype="float32")


@pytest.fixture(scope="module")
def tune(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tuned]:
    """Trains once with each set of options."""
    known: dict[str, Tuned] = {}

    def tuned(**options: Any) -> Tuned:
        if str(options) not in known:
            run = run_of(tiny, tmp_path_factory.mktemp("tuned"))
            loaded = load(tiny, run, **options)
            control, trainer = train(tiny, run, loaded)
            trainer.save(run.folder / "saved")
            known[str(options)] = Tuned(run, loaded, control.losses, run.folder / "saved")
        return known[str(options)]

    return tuned


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_evaluation_changes_nothing_and_a_resumed_run_is_bit_equal(
    tiny: Tiny, tune: Callable[..., Tuned], tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = tune(**options).losses
    assert len(plain) == STEPS
    assert plain[-1] < plain[0]
    run = run_of(tiny, tmp_path / "stopped")
    first, _ = train(
        tiny,
        run,
        load(tiny, run, **options),
        lambda step: Decision(evaluate=step.number == 2, checkpoint=step.number == 3, stop=step.number == 3),
    )
    torch.manual_seed(99)  # a resume must not lean on it
    second, again = train(tiny, run, load(tiny, run, **options), start=first.path(3))
    assert first.losses + second.losses == plain
    assert again.evaluate() == again.evaluate()


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_counted_as_what_they_stand_for(tiny: Tiny, tmp_path: Path, bits: int) -> None:
    run = run_of(tiny, tmp_path)
    plain = count_parameters(tiny.load(run).model)
    assert plain["total"] == plain["trainable"] > 0
    counted = count_parameters(load(tiny, run, bits=bits).model)
    assert counted["total"] == plain["total"] + counted["trainable"]
    assert 0 < counted["trainable"] < plain["total"]
    assert count_parameters({"weight": 1.0}) == {}


def test_what_an_evaluation_does_on_a_newer_cpu_is_prevented(
    tiny: Tiny, tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without our flag, bitsandbytes repacks the weights at an evaluation, and training goes on without gradients."""
    from bitsandbytes.functional import has_avx512bf16

    plain = tune().losses
    assert losses(tiny, tmp_path / "evaluated", evaluate=True) == plain
    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so nothing is repacked")

    monkeypatch.setattr(adapter, "never_repack", lambda model: None)
    broken = losses(tiny, tmp_path / "broken", evaluate=True)
    assert broken[:3] == plain[:3]
    assert broken[4:] != plain[4:]


def test_checkpointed_activations_change_nothing(tiny: Tiny, tune: Callable[..., Tuned], tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path / "saved", activation_checkpointing=True)
    assert train(tiny, run, load(tiny, run))[0].losses == tune().losses


def test_trained_weights_are_whole_and_start_as_they_were_made(tiny: Tiny, tmp_path: Path) -> None:
    """TRL makes them bfloat16 on a quantized model, and what LoftQ has found would be lost."""
    run = run_of(tiny, tmp_path, max_steps=1, learning_rate=1e-30)
    loaded = load(tiny, run, init="loftq")
    before = {name: weight.clone() for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    train(tiny, run, loaded)
    after = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "options",
    [*KINDS, {"init": "pissa", "pissa_rounds": 4}, {"modules_to_save": ("lm_head",), "bias": "all"}],
    ids=str,
)
def test_the_merged_model_is_the_trained_one(
    tiny: Tiny, tune: Callable[..., Tuned], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    tuned = tune(**options)
    merged = tuned.merge(tiny)
    assert merged.proof.verdict is Verdict.PROVED
    error = merged.proof.figures["kl_mean"]
    assert error < (1e-3 if "bits" in options else 1e-9)  # 8-bit layers round their inputs, too
    kind = "int8" if "bits" in options else options.get("quant_type", "nf4")
    assert merged.details["merged into"] == f"{kind} weights, dequantized"
    assert "quantization_config" not in json.loads((merged.path / "config.json").read_text("utf-8"))

    monkeypatch.setattr(merging, "weights_trained_on", lambda _: {})
    assert tuned.merge(tiny).proof.figures["kl_mean"] > (1.2 if "bits" in options else 1e6) * error


def test_a_merge_leaves_the_model_in_memory_as_it_was(tiny: Tiny, tune: Callable[..., Tuned]) -> None:
    for options in ({}, {"bits": 8}, {"init": "pissa", "rslora": True}):
        tuned = tune(**options)
        assert tuned.merge(tiny).proof.figures == tuned.merge(tiny).proof.figures


def test_a_base_that_is_saved_quantized_takes_an_adapter_and_merges(
    tiny: Tiny, tune: Callable[..., Tuned], tmp_path: Path
) -> None:
    quantized = load(tiny, run_of(tiny, tmp_path / "first")).model.unload()
    quantized.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    run = make_run(tmp_path / "run", model={"id": str(tmp_path / "base")}, train={**SHORT, "max_steps": STEPS})
    plugin = HuggingFace()
    loaded = Lora(LoraOptions()).adapt(run, plugin.load_model(run, plugin.load_processor(run), None))
    evaluated, trainer = train(tiny, run, loaded, lambda step: Decision(evaluate=step.number == 3))
    assert evaluated.losses == tune().losses
    trainer.save(tmp_path / "saved")
    proof = merge(run, loaded, tiny.data, tmp_path / "saved").proof
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["kl_mean"] < 1e-9


def test_a_model_that_sees_merges_into_what_it_was_trained_on(tmp_path: Path) -> None:
    rows = Rows(train=[Row(values={"text": "which colour is it"}, origin="r:1")], validation=[], fingerprint="")
    run, tiny, plugin = make_run(tmp_path), TinyModel(TinyOptions(architecture="gemma3")), QLora(Options(vision=True))
    loaded = tiny.load_model(run, tiny.load_processor(run, rows), plugin.quantize(run))
    loaded = plugin.adapt(run, loaded)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in loaded.model.parameters() if weight.requires_grad):
            weight.add_(0.1 * torch.randn(weight.shape, generator=drawn))
    loaded.model.save_pretrained(tmp_path / "saved")
    data = prepare(loaded.processor.tokenizer, Rows(train=[], validation=[], fingerprint=""))
    proof = merge(run, loaded, data, tmp_path / "saved", dtype="float32").proof
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["image_kl"] < 1e-6
