"""Adapters on the linear layers of GPT-2's family, whose weights are of shape (inputs, outputs)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import Loaded, Run, RunError, Verdict
from ftcore.planning.facts import Part
from ftcore.planning.measure import measure
from ftcore_plugins.huggingface import HuggingFace
from ftcore_plugins.lora import Lora, Options
from ftcore_plugins.qlora import Options as QOptions
from ftcore_plugins.qlora import QLora
from model_configs import write_config
from proof_kit import merge
from qlora_kit import train
from tiny_kit import SHORT, Tiny, make_run

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
PARAMETERS = 124_439_808
"""Of the smallest GPT-2, on the hub as openai-community/gpt2."""
LAYERS = {"c_attn": (768, 2304), "attn.c_proj": (768, 768), "c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
TIED = {"targets": ("c_attn", "wpe"), "modules_to_save": ("lm_head",)}


def sketch(folder: Path) -> Loaded:
    return HuggingFace().sketch_model(make_run(folder, model={"id": str(write_config(folder / "model", GPT2))}))


def test_they_are_counted(tmp_path: Path) -> None:
    loaded = sketch(tmp_path)
    facts = measure(loaded, lambda: Lora(Options(r=16)).adapt(make_run(tmp_path), loaded))
    assert facts.base == PARAMETERS
    assert facts.trained == 12 * 16 * sum(map(sum, LAYERS.values()))
    for layer in facts.linear(Part.TEXT):
        assert (layer.inputs, layer.outputs) in {sides for end, sides in LAYERS.items() if layer.name.endswith(end)}
        assert (layer.rank, layer.adapter) == (16, 16 * (layer.inputs + layer.outputs))


def test_one_that_is_trained_whole_is_counted(tmp_path: Path) -> None:
    loaded = sketch(tmp_path)
    options = Options(targets="c_attn", modules_to_save=("c_fc",))
    facts = measure(loaded, lambda: Lora(options).adapt(make_run(tmp_path), loaded))
    whole = [layer for layer in facts.layers if layer.trained]
    assert {(layer.weights, layer.rank) for layer in whole} == {(768 * 3072, 0)}
    assert len(whole) == 12


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> Run:
    """A run of a tiny GPT-2 that was saved."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
    ends = {"bos_token_id": tiny.tokenizer.eos_token_id, "eos_token_id": tiny.tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tiny.tokenizer), **sizes, **ends)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny.tokenizer.save_pretrained(tmp_path / "gpt2")
    return make_run(tmp_path, model={"id": str(tmp_path / "gpt2")}, train={**SHORT, "max_steps": 4})


@pytest.mark.parametrize("options", [{}, {"init": "pissa"}, TIED], ids=str)
def test_the_merged_model_is_the_trained_one(tiny: Tiny, tmp_path: Path, base: Run, options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of PEFT, which would set fan_in_fan_out by itself
        loaded = Lora(Options(**options)).adapt(base, HuggingFace().load_model(base, tiny.tokenizer, None))
    adapted = " ".join(name for name, weight in loaded.model.named_parameters() if weight.requires_grad)
    assert "c_attn" in adapted
    assert ("c_fc" in adapted) == ("targets" not in options)
    assert loaded.model.peft_config["default"].ensure_weight_tying == ("targets" in options)
    trainer = train(tiny, base, loaded)[1]
    assert any(weight.any() for name, weight in loaded.model.named_parameters() if "lora_B" in name)
    trainer.save(tmp_path / "saved")
    proof = merge(base, loaded, tiny.data, tmp_path / "saved", dtype="float32").proof
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["kl_mean"] < 1e-9


def test_tied_embeddings_are_trained_by_the_name_that_peft_knows(tmp_path: Path) -> None:
    expected = r"plugin\.lora\.modules_to_save: wte is tied to the output layer; name lm_head"
    with pytest.raises(RunError, match=expected):
        Lora(Options(modules_to_save=("wte",))).adapt(make_run(tmp_path), sketch(tmp_path))


def test_they_are_not_quantized(tmp_path: Path) -> None:
    expected = r"plugin\.qlora: transformer\.h\.0\.attn\.c_attn is a Conv1D, .*; take \[plugin\.lora\]"
    with pytest.raises(RunError, match=expected):
        QLora(QOptions()).adapt(make_run(tmp_path), sketch(tmp_path))
