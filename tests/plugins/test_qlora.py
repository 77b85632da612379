"""QLoRA: what is quantized and how, what is left whole, and which wrong settings are told before or at loading."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ftcore.api import Loaded, Row, Rows, RunError, World
from ftcore_plugins.common import devices
from ftcore_plugins.common.adapters.quantized import dequantized, kind_of, quantized_layers
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.qlora import Options, QLora
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from qlora_kit import load
from tiny_kit import Tiny, make_run

SIZES = [(2048, 2048), (512, 2048)]


def settings(**options: Any) -> Any:
    run = make_run(Path("nowhere"), hardware={"device": "cpu"}, train=options.pop("train", {}))
    return QLora(Options(**options)).quantize(run).options["quantization_config"]


def layer_of(loaded: Loaded, name: str = "model.layers.0.mlp.up_proj") -> Any:
    return dict(quantized_layers(loaded.model))[name]


# quantize


@pytest.mark.parametrize(
    ("options", "kind"), [({}, "nf4"), ({"quant_type": "fp4"}, "fp4"), ({"bits": 8}, "int8")], ids=str
)
def test_every_layer_but_the_output_is_quantized(tiny: Tiny, tmp_path: Path, options: Any, kind: str) -> None:
    loaded = load(tiny, tiny.run(tmp_path), **options)
    assert loaded.adapter == "qlora"
    assert kind_of(loaded.model) == kind
    names = {name.rpartition(".")[2] for name, _ in quantized_layers(loaded.model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    trained = {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_quantized_weights_are_near_the_whole_ones(tiny: Tiny, tmp_path: Path) -> None:
    whole = tiny.load(tiny.run(tmp_path)).model
    errors = {}
    for options in ({"bits": 8}, {}, {"quant_type": "fp4"}, {"double_quantization": False}):
        layers = quantized_layers(load(tiny, tiny.run(tmp_path), **options).model)
        pairs = [(dequantized(layer), whole.get_submodule(name).weight) for name, layer in layers]
        errors[str(options)] = sum((now - before).norm() for now, before in pairs).item()
    eight, double, fp4, single = errors.values()
    assert eight < 0.1 * single
    assert single < double < fp4  # quantized scales cost a little, the other kind of 4 bits more


def test_options_reach_the_loader() -> None:
    assert settings().bnb_4bit_quant_type == "nf4"
    assert settings(quant_type="fp4").bnb_4bit_quant_type == "fp4"
    assert settings().bnb_4bit_use_double_quant
    assert not settings(double_quantization=False).bnb_4bit_use_double_quant
    assert settings(bits=8).load_in_8bit
    assert settings().bnb_4bit_compute_dtype == torch.float32
    assert settings(train={"precision": "bf16"}).bnb_4bit_compute_dtype == torch.bfloat16
    assert settings(train={"precision": "fp16"}).bnb_4bit_compute_dtype == torch.float16
    assert settings(compute_dtype="bfloat16").bnb_4bit_compute_dtype == torch.bfloat16


def test_the_compute_type_reaches_the_layers(tiny: Tiny, tmp_path: Path) -> None:
    assert layer_of(load(tiny, tiny.run(tmp_path), compute_dtype="bfloat16")).compute_dtype == torch.bfloat16


def test_a_gpu_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run = attrs.evolve(make_run(Path("nowhere")), world=World(rank=3, size=4, local_rank=1, local_size=2))
    for device, place in (("cuda", 1), ("cpu", "cpu")):
        monkeypatch.setattr(devices, "device_of", lambda _, device=device: device)
        monkeypatch.setattr(devices, "gpu_with_bf16", lambda device: device == "cuda")
        assert QLora(Options()).quantize(run).options["device_map"] == {"": place}


def test_further_layers_can_be_kept_whole(tiny: Tiny, tmp_path: Path) -> None:
    loaded = load(tiny, tiny.run(tmp_path), keep=("model.layers.0",))
    assert all(name.startswith("model.layers.1.") for name, _ in quantized_layers(loaded.model))
    assert any(".layers.0." in name for name, weight in loaded.model.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("up_proj", r"no layer or block has the full name 'up_proj'; near it are model\.layers\..*up_proj"),
        ("", "no layer or block has the full name ''"),
        ("model", r"leaves no layer to quantize; name fewer, or take \[plugin\.lora\]"),
    ],
)
def test_what_is_kept_whole_must_be_there_and_not_all(tiny: Tiny, tmp_path: Path, keep: str, message: str) -> None:
    run = tiny.run(tmp_path)
    with pytest.raises(RunError, match=rf"plugin\.qlora\.keep: {message}"):
        QLora(Options(keep=(keep,))).adapt(run, TinyModel(TinyOptions()).sketch_model(run))


@pytest.mark.parametrize("vision", [False, True])
def test_what_sees_is_left_whole(tmp_path: Path, vision: bool) -> None:
    rows = Rows(train=[Row(values={"text": "which colour is it"}, origin="r:1")], validation=[], fingerprint="")
    plugin, tiny, run = QLora(Options(vision=vision)), TinyModel(TinyOptions(architecture="gemma3")), make_run(tmp_path)
    quantization = plugin.quantize(run)
    loaded = plugin.adapt(run, tiny.load_model(run, tiny.load_processor(run, rows), quantization))
    names = {name for name, _ in quantized_layers(loaded.model)}
    assert names
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert not [name for name in names if name.startswith(quantization.left_out)]
    adapted = {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    assert any("vision_tower" in name for name in adapted) == vision


@pytest.mark.parametrize("options", [{}, {"double_quantization": False}, {"quant_type": "fp4"}], ids=str)
def test_four_bits_are_counted_as_they_are_stored(options: Any) -> None:
    from bitsandbytes.nn import Params4bit

    config = Options(**options)
    counted = QLora(config).quantize(make_run(Path("nowhere"))).bytes_per_weight
    assert counted is not None
    for shape in SIZES:
        stored = Params4bit(
            torch.randn(shape),
            requires_grad=False,
            quant_type=config.quant_type,
            compress_statistics=config.double_quantization,
        ).to("cpu")
        state = stored.quant_state
        tensors = [stored.data, state.absmax, state.code]
        tensors += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        real = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        assert counted * stored.quant_state.shape.numel() == pytest.approx(real, rel=0.005)


def test_eight_bits_are_counted_as_they_are_stored() -> None:
    from bitsandbytes.nn import Int8Params

    counted = QLora(Options(bits=8)).quantize(make_run(Path("nowhere"))).bytes_per_weight
    assert counted is not None
    for shape in SIZES:
        stored = Int8Params(torch.randn(shape), requires_grad=False).to("cpu")
        assert stored.CB.data_ptr() == stored.data_ptr()  # no second copy
        assert counted * stored.numel() == pytest.approx(stored.numel() + 4 * stored.SCB.numel(), rel=0.005)


# check


def problems(device: str = "cpu", **options: Any) -> list[str]:
    run = make_run(Path("nowhere"), hardware={"device": device})
    return [str(problem) for problem in QLora(Options(**options)).check(run)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 8, "quant_type": "fp4"}, "plugin.qlora.quant_type: 8-bit weights have none"),
        ({"bits": 8, "double_quantization": False}, "plugin.qlora.double_quantization: 8-bit weights have none"),
        ({"bits": 8, "compute_dtype": "bfloat16"}, "plugin.qlora.compute_dtype: 8-bit weights have none"),
        ({"bits": 8, "init": "loftq"}, "plugin.qlora.init: loftq needs 4-bit weights"),
        ({"bits": 8, "dora": True}, "plugin.qlora.dora: needs 4-bit weights"),
        ({"init": "loftq", "dora": True}, "plugin.qlora.init: loftq and dora both split the weights"),
        ({"targets": ()}, "plugin.qlora.targets: empty"),
        ({"device": "mps"}, "plugin.qlora: bitsandbytes is not proved on Apple's GPUs; set hardware.device = 'cpu'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_found_early(options: Any, message: str) -> None:
    assert problems() == []
    [problem] = problems(**options)
    assert problem.startswith(message)


def test_an_automatic_device_on_a_mac_is_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems("auto") == []
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Apple's GPUs" in problems("auto")[0]
    assert problems("cpu") == []


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.common import requirements

    monkeypatch.setattr(requirements, "_found", lambda module: module != "bitsandbytes")
    assert problems() == ["plugin.qlora: bitsandbytes not installed; run: pip install 'ftcore[qlora]'"]


def test_a_card_without_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_of", lambda _: "cuda")
    monkeypatch.setattr(devices, "gpu_with_bf16", lambda _: False)
    run = make_run(Path("nowhere"))
    with pytest.raises(RunError, match=r"plugin\.qlora\.compute_dtype: this card has no bfloat16; set float16"):
        QLora(Options(compute_dtype="bfloat16")).quantize(run)
    assert QLora(Options(compute_dtype="float16")).quantize(run)


def test_a_mac_that_only_torch_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_of", lambda _: "mps")
    with pytest.raises(RunError, match=r"plugin\.qlora: bitsandbytes is not proved"):
        QLora(Options()).quantize(make_run(Path("nowhere")))


# adapt


def test_a_loader_that_does_not_quantize_is_found(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    with pytest.raises(RunError, match=r"plugin\.qlora: the loader has read the model without quantizing a layer"):
        QLora(Options()).adapt(run, tiny.load(run))


def test_a_loader_that_follows_other_wishes_is_found(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    quantized = TinyModel(TinyOptions()).load_model(run, tiny.tokenizer, QLora(Options()).quantize(run))
    with pytest.raises(RunError, match="has quantized the model to nf4 and not to int8; see model"):
        QLora(Options(bits=8)).adapt(run, quantized)


def test_a_model_that_is_saved_quantized_is_found_before_it_is_read(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    sketch = TinyModel(TinyOptions()).sketch_model(run)
    sketch.model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(RunError, match=r"model\.id: .*base is saved quantized; take \[plugin\.lora\], or name"):
        QLora(Options()).adapt(run, sketch)


def test_a_quantized_layer_cannot_be_trained_whole(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    sketch = TinyModel(TinyOptions()).sketch_model(run)
    for name in ("up_proj", "mlp"):
        expected = rf"modules_to_save: {name} is quantized .* leave model\.layers\.0\.mlp\..* \(plugin\.qlora\.keep\)"
        with pytest.raises(RunError, match=expected):
            QLora(Options(modules_to_save=(name,))).adapt(run, sketch)
    for options in (
        {"modules_to_save": ("lm_head",)},
        {"modules_to_save": ("layers.0.mlp",), "keep": ("model.layers.0",)},
    ):
        model = load(tiny, run, **options).model
        assert any("modules_to_save" in name for name, weight in model.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ("q_proj",)}, "modules_to_save: q_proj is quantized and cannot be trained whole"),
        ({"dora": True}, "dora: the model's weights are in 8 bits, and it needs 4 or whole ones"),
    ],
    ids=str,
)
def test_lora_on_a_model_that_is_saved_quantized_knows_its_limits(
    tiny: Tiny, tmp_path: Path, options: Any, message: str
) -> None:
    run = tiny.run(tmp_path)
    saved = TinyModel(TinyOptions()).load_model(run, tiny.tokenizer, QLora(Options(bits=8)).quantize(run))
    with pytest.raises(RunError, match=rf"plugin\.lora\.{message}"):
        Lora(LoraOptions(**options)).adapt(run, saved)


def test_errors_name_this_plugin(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"plugin\.qlora\.targets: no layer is called 'q_prj'; near it are q_proj"):
        load(tiny, tiny.run(tmp_path), targets=("q_prj",))


def test_it_is_silent(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = tiny.data.collate(tiny.data.train[:2])
    with caplog.at_level(logging.WARNING):
        for options in ({}, {"bits": 8}):
            model = load(tiny, tiny.run(tmp_path), **options).model
            model(**batch)
            model.train()(**batch).loss.backward()
    assert [record.message for record in caplog.records if "bitsandbytes" in record.name] == []
