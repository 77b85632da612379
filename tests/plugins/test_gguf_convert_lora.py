"""An adapter alone as GGUF: beside the base model it answers as PEFT's does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from ftcore.api import RunError
from gguf_convert_kit import KINDS, divergence, make_model, make_seeing, open_runtime

pytest.importorskip("xllamacpp")

from gguf import GGUFReader

from ftcore_plugins.gguf.conversion.convert import convert
from ftcore_plugins.gguf.conversion.lora import convert_lora

NAMES = ("llama", "qwen2", "gemma2", "gemma3")
ADAPTER: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    found = {name: make_model(folder / name, KINDS[name]) for name in NAMES}
    for name in NAMES:
        convert(found[name], folder / f"{name}.gguf", "f32")
    return {**found, "seeing": make_seeing(folder / "seeing")}


def adapted(base: Path, saved: Path, kind: Any = AutoModelForCausalLM, **adapter: Any) -> Any:
    model = kind.from_pretrained(base, dtype="float32")
    tuned = get_peft_model(model, LoraConfig(**{**ADAPTER, **adapter})).eval()
    tuned.save_pretrained(saved)
    return tuned


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        *((name, {}) for name in NAMES),
        ("llama", {"use_rslora": True, "r": 8}),
        ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}}),
        ("llama", {"use_rslora": True, "rank_pattern": {r"layers\.1.*k_proj": 8}}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    ],
)
def test_beside_the_base_it_answers_as_peft(
    bases: dict[str, Path], tmp_path: Path, name: str, adapter: dict[str, Any]
) -> None:
    tuned, target = adapted(bases[name], tmp_path / "saved", **adapter), tmp_path / "lora.gguf"
    convert_lora(tmp_path / "saved", bases[name], target, "f32")
    base = bases[name].with_suffix(".gguf")
    assert abs(divergence(tuned, open_runtime(base, lora=target), range(300, 316))) < 1e-6
    assert divergence(tuned, open_runtime(base), range(300, 316)) > 1e-2


def test_the_file_is_an_adapter_in_the_wanted_type(bases: dict[str, Path], tmp_path: Path) -> None:
    adapted(bases["llama"], tmp_path / "saved")
    convert_lora(tmp_path / "saved", bases["llama"], tmp_path / "lora.gguf", "f16")
    reader = GGUFReader(tmp_path / "lora.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert (said["general.type"], said["adapter.type"], said["adapter.lora.alpha"]) == ("adapter", "lora", 16.0)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F16"}
    assert len(reader.tensors) == 2 * 2 * 7


def refusal(saved: Path, base: Path) -> str:
    target = saved.with_suffix(".gguf")
    with pytest.raises(RunError) as raised:
        convert_lora(saved, base, target, "f16")
    assert not target.exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"use_dora": True}, "has DoRA"),
        ({"modules_to_save": ["lm_head"]}, "has layers that were trained whole"),
        ({"trainable_token_indices": [1]}, "has tokens that were trained whole"),
        ({"lora_bias": True}, "has biases"),
        ({"target_modules": ["embed_tokens"]}, "is no part of a LoRA"),
    ],
)
def test_more_than_lora_is_refused(bases: dict[str, Path], tmp_path: Path, adapter: dict[str, Any], said: str) -> None:
    adapted(bases["llama"], tmp_path / "saved", **adapter)
    assert said in refusal(tmp_path / "saved", bases["llama"])


def test_an_adapter_that_changes_how_images_are_seen_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapted(bases["seeing"], tmp_path / "saved", AutoModelForImageTextToText)
    assert "vision_tower" in refusal(tmp_path / "saved", bases["seeing"])
    text = r".*language_model.*(q_proj|o_proj)"
    adapted(bases["seeing"], tmp_path / "text", AutoModelForImageTextToText, target_modules=text)
    convert_lora(tmp_path / "text", bases["seeing"], tmp_path / "lora.gguf", "f16")
    assert len(GGUFReader(tmp_path / "lora.gguf").tensors) == 2 * 2 * 2


def test_what_is_no_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    saved, base = tmp_path / "saved", bases["llama"]
    assert "adapter_config.json cannot be read" in refusal(saved, base)
    adapted(bases["gemma3"], saved)
    assert "which the base model has not; is it another's?" in refusal(saved, base)
    adapted(base, saved)
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((base / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "intermediate_size": 65}))
    assert "down_proj does not fit the base model's; is it another's?" in refusal(saved, other)
    weights = load_file(saved / "adapter_model.safetensors")
    save_file({}, saved / "adapter_model.safetensors")
    assert "is empty" in refusal(saved, base)
    save_file(dict(list(weights.items())[:1]), saved / "adapter_model.safetensors")
    assert "only half of the adapter" in refusal(saved, base)
    weights[next(iter(weights))][0] = float("nan")
    save_file(weights, saved / "adapter_model.safetensors")
    assert "holds NaN" in refusal(saved, base)
    (saved / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors cannot be read" in refusal(saved, base)
    (saved / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    assert "is no LoRA's" in refusal(saved, base)


def test_the_base_needs_no_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    adapted(bases["llama"], tmp_path / "saved")
    (tmp_path / "base").mkdir()
    shutil.copy(bases["llama"] / "config.json", tmp_path / "base")
    convert_lora(tmp_path / "saved", tmp_path / "base", tmp_path / "lora.gguf", "bf16")
    assert (tmp_path / "lora.gguf").is_file()
