"""The streaming merge is PEFT's, bit for bit; what it refuses goes through PEFT, and says so."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftcore.api import RunError
from ftcore_plugins.common.adapters.quantized import weights_trained_on
from ftcore_plugins.common.merging import stored
from ftcore_plugins.qlora import Options as QLoraOptions
from ftcore_plugins.qlora import QLora
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from merge_kit import QUIET, Saved, adapted, by_peft, disturb, loaded_from, same, written
from qlora_kit import load, run_of
from tiny_kit import Tiny, make_run

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]
Make = Callable[..., Saved]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(tied: bool, **changes: Any) -> Any:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(**shape, vocab_size=80, tie_word_embeddings=tied, initializer_range=0.2, **changes)
    )


def gpt2() -> Any:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=80, n_positions=64, **ends))


@pytest.fixture
def make(tiny: Tiny, tmp_path: Path) -> Make:
    def saved(model: Any, dtype: torch.dtype = torch.float32, shards: str = "5GB", **adapter: Any) -> Saved:
        base = tmp_path / "base"
        model.to(dtype).save_pretrained(base, max_shard_size=shards)
        tiny.tokenizer.save_pretrained(base)
        return adapted(make_run(tmp_path), model, tiny.tokenizer, tiny.data, base, **adapter)

    return saved


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "lora": (lambda: llama(False), {"target_modules": LINEAR, "r": 4, "lora_alpha": 6}),
    "rslora": (lambda: llama(False), {"target_modules": LINEAR, "r": 4, "use_rslora": True}),
    "patterns": (
        lambda: llama(False),
        {
            "target_modules": LINEAR,
            "rank_pattern": {"layers.1.mlp.up_proj": 3, "q_proj": 2},
            "alpha_pattern": {"layers.0.*v_proj": 5},
        },
    ),
    "modules_to_save": (lambda: llama(False), {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "embeddings and lm_head": (lambda: llama(False), {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "tied": (lambda: llama(True), {"target_modules": LINEAR}),
    "tied embeddings": (lambda: llama(True), {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied and trained whole": (
        lambda: llama(True),
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    ),
    "layers_to_transform": (lambda: llama(False), {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("lora", torch.float32), *((kind, torch.bfloat16) for kind in KINDS)], ids=str
)
def test_it_is_bit_equal_to_peft(make: Make, kind: str, dtype: torch.dtype) -> None:
    model, options = KINDS[kind]
    saved = make(model(), dtype, **options)
    artifact = saved.export()
    expected = by_peft(saved, dtype)
    assert artifact.details["merge"] == "streaming"
    assert artifact.details["dtype"] == str(dtype).removeprefix("torch.")
    assert artifact.details["merged into"] == "the original weights"
    assert same(loaded_from(artifact.path, expected), expected.state_dict())
    assert not same(loaded_from(Path(saved.loaded.base), expected), expected.state_dict())


def test_its_file_is_what_transformers_would_write(make: Make, tmp_path: Path) -> None:
    saved = make(llama(False), target_modules=LINEAR)
    by_peft(saved, torch.float32).save_pretrained(tmp_path / "peft")
    file = "model.safetensors"
    assert (saved.export().path / file).read_bytes() == (tmp_path / "peft" / file).read_bytes()


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_another_type_is_merged_in_that_type(make: Make, wanted: str) -> None:
    saved = make(llama(False), torch.bfloat16, target_modules=LINEAR)
    expected = by_peft(saved, getattr(torch, wanted))
    artifact = saved.export(dtype=wanted)
    assert same(written(artifact.path), expected.state_dict())
    assert json.loads((artifact.path / "config.json").read_text("utf-8"))["dtype"] == wanted
    assert artifact.details["dtype"] == wanted


def test_several_files_come_in_and_go_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = make(llama(False), shards="20KB", target_modules=LINEAR)
    assert len(list(Path(saved.loaded.base).glob("*.safetensors"))) > 2
    monkeypatch.setattr(stored, "PIECE", 1000)  # bytes; most tensors are copied in several pieces
    artifact = saved.export(max_shard_size="30KB")
    files = sorted(artifact.path.glob("*.safetensors"))
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) < 32_000
    index = json.loads((artifact.path / "model.safetensors.index.json").read_text("utf-8"))
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in written(artifact.path).values())
    expected = by_peft(saved, torch.float32)
    assert same(loaded_from(artifact.path, expected), expected.state_dict())


def test_a_model_that_was_trained_whole_is_copied(make: Make, tmp_path: Path) -> None:
    saved = make(llama(True), torch.bfloat16, target_modules=LINEAR)
    model = saved.loaded.model.unload().float()
    disturb(model.requires_grad_())
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    whole = Saved(saved.run, type(saved.loaded)(model=model, processor=saved.loaded.processor, base=saved.loaded.base),
                  saved.data, tmp_path / "model")  # fmt: skip
    artifact = whole.export()
    assert artifact.details["merge"] == "none, since all weights were trained"
    assert artifact.details["dtype"] == "bfloat16"  # the base's, though trained in float32
    assert same(loaded_from(artifact.path, model), model.bfloat16().state_dict())
    (whole.saved / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"merge: .*/model cannot be read: .*config\.json.*; export from a checkpoint"):
        whole.export()


# Quantized weights


@pytest.fixture(scope="module")
def quantized(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    run = run_of(tiny, tmp_path_factory.mktemp("nf4"))
    loaded = load(tiny, run)
    disturb(loaded.model)
    loaded.model.save_pretrained(run.folder / "adapter", save_embedding_layers=False)
    return Saved(run, loaded, tiny.data, run.folder / "adapter")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_of_quantized_weights_is_merged_into_those(quantized: Saved, dtype: str) -> None:
    expected = by_peft(quantized, getattr(torch, dtype), weights_trained_on(quantized.loaded.model))
    artifact = quantized.export(dtype=dtype)
    assert artifact.details["merged into"] == "nf4 weights, dequantized"
    assert artifact.details["merge"] == "streaming"
    assert same(written(artifact.path), expected.state_dict())


def test_it_is_merged_into_the_original_weights_if_they_are_wanted(quantized: Saved) -> None:
    artifact = quantized.into("original").export()
    assert artifact.details["merged into"] == "the original weights"
    original = written(artifact.path)
    assert same(original, by_peft(quantized, torch.float32).state_dict())
    assert not same(original, written(quantized.export().path))


@pytest.fixture(scope="module")
def seeing(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    run, model = make_run(tmp_path_factory.mktemp("gemma")), TinyModel(TinyOptions(architecture="gemma3"))
    plugin = QLora(QLoraOptions(vision=True))
    loaded = plugin.adapt(run, model.load_model(run, model.load_processor(run, tiny.rows), plugin.quantize(run)))
    disturb(loaded.model)
    loaded.model.save_pretrained(run.folder / "adapter", save_embedding_layers=False)
    return Saved(run, loaded, tiny.data, run.folder / "adapter")


def test_a_model_that_sees_keeps_the_names_that_the_hub_has(seeing: Saved) -> None:
    artifact = seeing.export()
    expected = by_peft(seeing, torch.float32, weights_trained_on(seeing.loaded.model))
    assert artifact.details["merge"] == "streaming"
    assert same(loaded_from(artifact.path, expected), expected.state_dict())
    names = written(artifact.path)
    assert names.keys() == written(Path(seeing.loaded.base)).keys()
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names


CONV = "PEFT, because model.vision_tower.embeddings.patch_embedding is no linear layer but a Conv2d"


@pytest.mark.parametrize(
    ("options", "merge"),
    [
        ({"target_modules": ["q_proj", "fc1"], "modules_to_save": ["multi_modal_projector"]}, "streaming"),
        ({"target_modules": ["patch_embedding"]}, CONV),
    ],
    ids=["projector trained whole", "convolution"],
)
def test_any_part_of_a_model_that_sees(tiny: Tiny, tmp_path: Path, options: dict[str, Any], merge: str) -> None:
    run, model = make_run(tmp_path), TinyModel(TinyOptions(architecture="gemma3"))
    loaded = model.load_model(run, model.load_processor(run, tiny.rows), None)
    saved = adapted(run, loaded.model, loaded.processor, tiny.data, Path(loaded.base), **options)
    artifact, expected = saved.export(), by_peft(saved, torch.float32)
    assert artifact.details["merge"] == merge
    assert same(loaded_from(artifact.path, expected), expected.state_dict())
    assert written(artifact.path).keys() == written(Path(loaded.base)).keys()


def test_a_base_of_the_hub_is_read_from_its_cache(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = make(llama(False), shards="20KB", target_modules=LINEAR)
    expected, commit = by_peft(saved, torch.float32), "c" * 40
    snapshot = tmp_path / "hub/models--some--model/snapshots" / commit
    shutil.copytree(saved.loaded.base, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = attrs.evolve(saved, loaded=attrs.evolve(saved.loaded, base="some/model", revision=commit))
    artifact = cached.export()
    assert artifact.details["merge"] == "streaming"
    assert same(loaded_from(artifact.path, expected), expected.state_dict())
    lost = sorted(snapshot.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(RunError, match=rf"some/model has no {lost.name}, .* run: hf download some/model"):
        cached.export()


# Through PEFT


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "its bias terms are trained, too"),
        ({"bias": "all"}, "its bias terms are trained, too"),
        ({"lora_bias": True}, "it has bias terms"),
        ({"init_lora_weights": "olora"}, "its start, olora, has changed the base model"),
        ({"trainable_token_indices": [3, 5]}, "its trainable_token_indices is set"),
    ],
    ids=str,
)
def test_what_is_refused_goes_through_peft(
    make: Make, caplog: pytest.LogCaptureFixture, options: dict[str, Any], reason: str
) -> None:
    saved = make(llama(False, attention_bias=True), target_modules=["q_proj", "v_proj"], **options)
    with caplog.at_level(logging.INFO, "ftcore.plugins.merge"):
        artifact = saved.export()
    assert artifact.details["merge"].startswith(f"PEFT, because {reason}")
    assert any(reason in message for message in caplog.messages)
    expected = by_peft(saved, torch.float32)
    assert same(loaded_from(artifact.path, expected), expected.state_dict())


def test_tied_weights_that_part_go_through_peft(make: Make) -> None:
    saved = make(llama(True), target_modules=["q_proj"], modules_to_save=["lm_head"])
    artifact = saved.export()
    assert artifact.details["merge"] == "PEFT, because lm_head.weight is trained whole and no longer tied"
    config = json.loads((artifact.path / "config.json").read_text("utf-8"))
    assert not config["tie_word_embeddings"]
    assert not torch.equal(*(written(artifact.path)[name] for name in ("lm_head.weight", "model.embed_tokens.weight")))


class _WithGpu:
    cuda = SimpleNamespace(is_available=lambda: True, get_device_capability=lambda: (9, 0))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_a_base_that_is_saved_in_fp8(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, transformers would keep it so, and PEFT cannot add to that."""
    from transformers.quantizers import quantizer_finegrained_fp8

    saved = make(llama(False), torch.bfloat16, target_modules=LINEAR)
    base, tensors = Path(saved.loaded.base), dict[str, torch.Tensor]()
    for name, weight in load_file(base / "model.safetensors").items():
        tensors[name] = weight.to(torch.float8_e4m3fn) if "_proj" in name else weight
        if "_proj" in name:
            tensors[name.replace("weight", "weight_scale_inv")] = torch.full((1, 1), 2.0)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": fp8}), "utf-8")
    expected = by_peft(saved, torch.bfloat16)
    monkeypatch.setattr(quantizer_finegrained_fp8, "torch", _WithGpu())
    artifact = saved.export()
    assert artifact.details["merge"] == "PEFT, because the base model is saved quantized"
    assert same(written(artifact.path), expected.state_dict())
    assert "quantization_config" not in json.loads((artifact.path / "config.json").read_text("utf-8"))


def test_packed_weights_go_through_peft(make: Make) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**shape, intermediate_size=48, num_local_experts=2, vocab_size=80))
    saved = make(model, target_modules=["q_proj"])
    artifact = saved.export()
    assert artifact.details["merge"].startswith("PEFT, because model.layers.0.")
    assert artifact.details["merge"].endswith("is packed with others when the model is loaded")
    expected = by_peft(saved, torch.float32)
    assert same(loaded_from(artifact.path, expected), expected.state_dict())
