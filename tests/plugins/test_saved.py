"""Base models that are saved quantized: what a plan takes them for, what they are once read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcore.api import Loaded, RunError
from ftcore.cli import main
from ftcore_plugins.common.adapters.quantized import quantized_layers
from ftcore_plugins.common.saved import kept_layers
from ftcore_plugins.huggingface import HuggingFace
from ftcore_plugins.lora import Lora, Options
from ftcore_plugins.qlora import Options as QOptions
from ftcore_plugins.qlora import QLora
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from model_configs import EXPERTS, LLAMA_3_2_1B, write_config
from tiny_kit import SHORT, FakeControl, Tiny, make_run

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "model.layers.0"]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["model.layers.*.self_attn"]}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def sketch(folder: Path, quantization: Any, config: Any = LLAMA_3_2_1B) -> Loaded:
    place = write_config(folder / "model", {**config, "quantization_config": quantization})
    return HuggingFace().sketch_model(make_run(folder, model={"id": str(place)}))


@pytest.mark.parametrize(
    ("quantization", "kind", "bytes_per_weight", "kept"),
    [
        (NF4, "nf4", 0.5 + 4 / 64, 112),
        ({**NF4, "bnb_4bit_use_double_quant": True}, "nf4", 0.5 + 1 / 64 + 4 / 16384, 112),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4", 0.5 + 4 / 64, 112),
        (INT8, "int8", pytest.approx(1, rel=0.002), 105),
        (GPTQ, "gptq", 0.5 + 2.5 / 128, 112),
        ({**GPTQ, "bits": 8, "group_size": -1}, "gptq", 1.0, 112),
        ({**GPTQ, "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]}, "gptq", 0.51953125, 32),
        (AWQ, "awq", 0.5 + 2.5 / 64, 48),
    ],
    ids=str,
)
def test_weights_that_stay_quantized(
    tmp_path: Path, quantization: Any, kind: str, bytes_per_weight: float, kept: int
) -> None:
    loaded = sketch(tmp_path, quantization)
    assert loaded.saved is not None
    assert (loaded.saved.kind, loaded.saved.whole) == (kind, False)
    assert loaded.saved.bytes_per_weight == bytes_per_weight
    assert len(kept_layers(loaded.model, loaded.saved)) == kept


@pytest.mark.parametrize("kind", ["fp8", "mxfp4"])
def test_weights_that_are_made_whole(tmp_path: Path, kind: str) -> None:
    saved = sketch(tmp_path, {"quant_method": kind}).saved
    assert saved is not None
    assert saved.whole
    assert not saved.is_unknown


@pytest.mark.parametrize(("quantization", "config"), [({"quant_method": "quark"}, LLAMA_3_2_1B), (NF4, EXPERTS)])
def test_weights_that_nobody_knows_the_size_of(tmp_path: Path, quantization: Any, config: Any) -> None:
    saved = sketch(tmp_path, quantization, config).saved
    assert saved is not None
    assert saved.is_unknown


def test_whole_weights_are_not_saved_quantized(tmp_path: Path) -> None:
    assert sketch(tmp_path, None).saved is None


@pytest.fixture
def saved_nf4(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny model, saved by bitsandbytes in 4 bits."""
    run = tiny.run(tmp_path / "first")
    loaded = TinyModel(TinyOptions()).load_model(run, tiny.tokenizer, QLora(QOptions()).quantize(run))
    loaded.model.save_pretrained(tmp_path / "nf4")
    tiny.tokenizer.save_pretrained(tmp_path / "nf4")
    return tmp_path / "nf4"


def test_the_planned_layers_are_the_quantized_ones(tiny: Tiny, tmp_path: Path, saved_nf4: Path) -> None:
    run = make_run(tmp_path, model={"id": str(saved_nf4)})
    drawn = HuggingFace().sketch_model(run)
    real = HuggingFace().load_model(run, tiny.tokenizer, None)
    assert drawn.saved is not None
    assert set(kept_layers(drawn.model, drawn.saved)) == {name for name, _ in quantized_layers(real.model)} != set()


def test_fp8_is_trained_as_whole_weights_on_every_machine(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.quantizers import quantizer_finegrained_fp8

    run = tiny.run(tmp_path, train=SHORT)
    folder, tensors = tmp_path / "base", dict[str, torch.Tensor]()
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors[name] = weight.to(torch.float8_e4m3fn) if "_proj" in name else weight
        if "_proj" in name:
            tensors[name.replace("weight", "weight_scale_inv")] = torch.full((1, 1), 1.0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}), "utf-8")
    gpu = SimpleNamespace(is_available=lambda: True, get_device_capability=lambda: (9, 0))
    monkeypatch.setattr(quantizer_finegrained_fp8, "torch", SimpleNamespace(cuda=gpu))

    here = make_run(tmp_path, model={"id": str(folder), "dtype": "float32"}, train=SHORT)
    for plugin in (None, Lora(Options())):
        loaded = HuggingFace().load_model(here, tiny.tokenizer, None)
        assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
        loaded = plugin.adapt(here, loaded) if plugin else loaded
        control = FakeControl(tmp_path / f"checkpoints-{plugin is None}")
        Sft(SftOptions()).make_trainer(run, loaded, tiny.data, {}).train(control, None)
        assert control.losses[-1] < control.losses[0]


@pytest.mark.parametrize(
    ("quantization", "options", "message"),
    [
        (NF4, {"init": "pissa"}, r"model\.id: .* is saved quantized, and its whole weights are needed"),
        (GPTQ, {"modules_to_save": ("up_proj",)}, "modules_to_save: up_proj is quantized and cannot be trained whole"),
        (INT8, {"dora": True}, "dora: the model's weights are in 8 bits, and it needs 4 or whole ones"),
    ],
    ids=str,
)
def test_what_it_cannot_have_is_found_in_the_sketch(
    tmp_path: Path, quantization: Any, options: Any, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        Lora(Options(**options)).adapt(make_run(tmp_path), sketch(tmp_path, quantization))


@pytest.mark.parametrize(
    ("quantization", "options"),
    [(NF4, {"dora": True}), (FP8, {"init": "pissa"}), (FP8, {"modules_to_save": ("up_proj",)})],
    ids=str,
)
def test_what_it_can_have(tmp_path: Path, quantization: Any, options: Any) -> None:
    assert Lora(Options(**options)).adapt(make_run(tmp_path), sketch(tmp_path, quantization)).adapter == "lora"


def plan(folder: Path, quantization: Any, plugin: str, *more: str) -> int:
    write_config(folder / "model", {**LLAMA_3_2_1B, "quantization_config": quantization})
    profile = folder / "profile.toml"
    tables = '[hardware]\nprofile = "rtx_3070"\n[model]\nid = "model"\n[train]\nmax_length = 512\nmax_steps = 1\n'
    profile.write_text(f"{tables}[plugin.chat]\n{plugin}", "utf-8")
    return main(["plan", str(profile), *more])


@pytest.mark.parametrize(
    ("quantization", "words", "most"),
    [
        (NF4, "its weights are saved quantized (nf4), and kept so", 3),
        (FP8, "its weights are saved quantized (fp8), and made whole as they are read", 5),
        (None, "parameters", 5),
    ],
    ids=str,
)
def test_a_plan_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quantization: Any, words: str, most: float
) -> None:
    assert plan(tmp_path, quantization, "[plugin.lora]\n", "--set", f"hardware.memory={most}") == 0
    told = capsys.readouterr().out
    assert words in told
    assert plan(tmp_path, quantization, "[plugin.lora]\n", "--set", f"hardware.memory={most - 1.5}") == 1
    told = capsys.readouterr().out
    assert ("plugin.qlora" in told) == (quantization is None)


def test_a_kind_that_plans_do_not_know_is_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = plan(tmp_path, {"quant_method": "quark"}, "[plugin.lora]\n", "--set", "hardware.memory=2.0")
    told = capsys.readouterr().out
    assert code == 0
    assert told.startswith("may not fit: at most ")
    assert "how large saved ones are (quark) is not known" in " ".join(told.split())


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3", "fsdp"])
def test_weights_that_stay_quantized_cannot_be_shared_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = f"[plugin.lora]\n[plugin.{name}]\n"
    assert plan(tmp_path, NF4, shared, "--set", "hardware.processes=2") == 1
    told = capsys.readouterr().err
    assert (
        f"model is saved quantized (nf4), and {name} cannot share out such weights; leave out [plugin.{name}]" in told
    )
    assert plan(tmp_path, FP8, shared, "--set", "hardware.processes=2", "--set", "hardware.memory=100") == 0


def test_training_all_of_it_is_refused_before_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, NF4, "") == 1
    told = capsys.readouterr().err
    assert "model is saved quantized (nf4), and such weights are not trained themselves; add [plugin.lora]" in told
    assert plan(tmp_path, FP8, "", "--set", "hardware.memory=100") == 0
