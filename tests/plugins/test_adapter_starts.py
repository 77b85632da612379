"""PiSSA and LoftQ: what the adapter starts from, and that a saved adapter fits the model that it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcore.api import Loaded, RunError, Verdict
from ftcore_plugins.common.adapters.quantized import dequantized
from ftcore_plugins.lora import Lora, Options
from proof_kit import merge
from qlora_kit import load, run_of, train
from tiny_kit import Tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT for transformers
LAYER = "model.layers.0.mlp.up_proj"


def adapt(tiny: Tiny, folder: Path, **options: Any) -> Loaded:
    run = run_of(tiny, folder)
    return Lora(Options(**options)).adapt(run, tiny.load(run))


def layer(model: Any, name: str = LAYER) -> Any:
    return model.base_model.model.get_submodule(name)


def share(adapted: Any) -> torch.Tensor:
    """What the adapter adds to the weight."""
    return adapted.scaling["default"] * adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight


def logits(tiny: Tiny, model: Any) -> torch.Tensor:
    batch = {name: value for name, value in tiny.data.collate(tiny.data.validation).items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("options", [{}, {"alpha": 5.0}, {"rslora": True}, {"pissa_rounds": 8}], ids=str)
def test_pissa_takes_over_the_largest_singular_values(tiny: Tiny, tmp_path: Path, options: Any) -> None:
    whole = tiny.load(run_of(tiny, tmp_path)).model
    model = adapt(tiny, tmp_path, init="pissa", r=4, **options).model
    weight, adapted = whole.get_submodule(LAYER).weight, layer(model)
    left, values, right = torch.linalg.svd(weight)
    largest = left[:, :4] * values[:4] @ right[:4]
    found = (share(adapted) - largest).norm() / largest.norm()
    assert found < (0.05 if options.get("pissa_rounds") else 1e-5)
    assert torch.allclose(adapted.base_layer.weight + share(adapted), weight, atol=1e-5)
    assert torch.allclose(logits(tiny, model), logits(tiny, whole), atol=1e-3)


def test_rounds_are_an_approximation(tiny: Tiny, tmp_path: Path) -> None:
    exact, near = (layer(adapt(tiny, tmp_path, init="pissa", r=4, pissa_rounds=n).model) for n in (0, 1))
    assert not torch.allclose(share(exact), share(near), atol=1e-4)


def test_pissa_is_the_same_each_time_and_draws_nothing(tiny: Tiny, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = (layer(adapt(tiny, tmp_path, init="pissa", pissa_rounds=2).model) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(share(first), share(second))
    assert torch.equal(first.base_layer.weight, second.base_layer.weight)


@pytest.mark.parametrize("options", [{}, {"rslora": True, "alpha": 20.0}], ids=str)
def test_a_pissa_adapter_is_saved_for_the_base_model(tiny: Tiny, tmp_path: Path, options: Any) -> None:
    run = run_of(tiny, tmp_path)
    loaded = adapt(tiny, tmp_path, init="pissa", r=4, **options)
    start = logits(tiny, loaded.model)
    _, trainer = train(tiny, run, loaded)
    trainer.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["init_lora_weights"]) == (8, True)
    weights = load_file(tmp_path / "saved/adapter_model.safetensors")
    assert {len(value) for name, value in weights.items() if "lora_A" in name} == {8}
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(loaded.base), tmp_path / "saved")
    tuned = logits(tiny, loaded.model)
    assert torch.allclose(logits(tiny, again), tuned, atol=1e-3)
    assert not torch.allclose(start, tuned, atol=0.1)
    proof = merge(run, loaded, tiny.data, tmp_path / "saved").proof
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["kl_mean"] < 1e-9


def error_of(tiny: Tiny, folder: Path, **options: Any) -> float:
    """How far all adapted weights are from the whole ones, relative to them."""
    whole, model = tiny.load(run_of(tiny, folder)).model, load(tiny, run_of(tiny, folder), **options).model
    total = rest = 0.0
    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            now = dequantized(layer(model, name).base_layer) + share(layer(model, name))
            total += module.weight.square().sum().item()
            rest += (now - module.weight).square().sum().item()
    return (rest / total) ** 0.5


@pytest.mark.parametrize("options", [{}, {"alpha": 7.0}, {"quant_type": "fp4"}, {"rslora": True}], ids=str)
def test_starts_lower_the_quantization_error(tiny: Tiny, tmp_path: Path, options: Any) -> None:
    plain = error_of(tiny, tmp_path, **options)
    assert error_of(tiny, tmp_path, init="loftq", **options) < 0.75 * plain
    assert error_of(tiny, tmp_path, init="pissa", **options) < 0.75 * plain
    assert error_of(tiny, tmp_path, init="loftq", **{**options, "r": 32}) < 0.5 * plain


def test_loftq_leaves_the_quantized_weights_alone(tiny: Tiny, tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path)
    plain, started = (layer(load(tiny, run, **options).model).base_layer for options in ({}, {"init": "loftq"}))
    assert torch.equal(plain.weight, started.weight)


def test_starts_need_linear_layers(tiny: Tiny, tmp_path: Path) -> None:
    expected = r"plugin\.lora\.init: model\.embed_tokens is no linear layer .* leave it out of targets"
    with pytest.raises(RunError, match=expected):
        adapt(tiny, tmp_path, init="pissa", targets=("q_proj", "embed_tokens"))


def test_starts_need_as_many_singular_values_as_ranks(tiny: Tiny, tmp_path: Path) -> None:
    expected = r"plugin\.lora\.r: 33 is over the smaller side of model\.layers\.0\.self_attn\.k_proj, 32; lower it"
    with pytest.raises(RunError, match=expected):
        adapt(tiny, tmp_path, init="pissa", r=33)


def test_whole_weights_that_are_not_there_are_told(tiny: Tiny, tmp_path: Path) -> None:
    from ftcore_plugins.common.adapters.starts import WholeWeights

    run = run_of(tiny, tmp_path)
    loaded = attrs.evolve(tiny.load(run), base=str(tmp_path / "gone"))
    with pytest.raises(RunError, match=r"model\.id: .*gone is "):
        WholeWeights(run, loaded).of(LAYER)
    path = tmp_path / "base/config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(RunError, match="is saved quantized, and its whole weights are needed"):
        WholeWeights(run, attrs.evolve(loaded, base=str(tmp_path / "base"))).of(LAYER)
