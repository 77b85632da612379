"""The merged export: plain transformers loads it, its proof can fail, and it names no folder of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcore.api import Artifact, Loaded, PreparedData, Run, Verdict
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.merge import Merge, Options, proof
from ftcore_plugins.merge.writer import _old_rope, _without_places
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from tiny_kit import FakeControl, Tiny

TRAIN = {"max_steps": 12, "batch_size": 8, "learning_rate": 5e-3}


@attrs.frozen
class Tuned:
    """A model in memory, trained for a few steps and saved."""

    run: Run
    loaded: Loaded
    data: PreparedData
    saved: Path

    def export(self, **options: Any) -> Artifact:
        return Merge(Options(**options)).export(self.run, self.loaded, self.data, self.saved)


@pytest.fixture(scope="module")
def tune(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tuned]:
    def make(lora: LoraOptions | None, data: PreparedData = tiny.data) -> Tuned:
        folder = tmp_path_factory.mktemp("tuned")
        run = tiny.run(folder, train=TRAIN)
        loaded = tiny.load(run)
        loaded = Lora(lora).adapt(run, loaded) if lora else loaded
        trainer = Sft(SftOptions()).make_trainer(run, loaded, data, {})
        trainer.train(FakeControl(folder / "checkpoints"), None)
        trainer.save(folder / "saved")
        return Tuned(run, loaded, data, folder / "saved")

    return make


@pytest.fixture(scope="module")
def tuned(tune: Callable[..., Tuned]) -> Tuned:
    return tune(LoraOptions(dropout=0.1))


def logits(tiny: Tiny, model: Any) -> torch.Tensor:
    batch = {name: value for name, value in tiny.data.collate(tiny.data.validation).items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits.float()


@pytest.mark.parametrize(
    "lora",
    [
        None,
        LoraOptions(),
        LoraOptions(rslora=True, modules_to_save=("lm_head",)),
        LoraOptions(dora=True, targets=("q_proj", "up_proj")),
    ],
    ids=["full", "lora", "rslora with lm_head", "dora"],
)
def test_plain_transformers_loads_what_is_proved(
    tiny: Tiny, tune: Callable[..., Tuned], lora: LoraOptions | None
) -> None:
    tuned = tune(lora)
    artifact = tuned.export()
    assert (artifact.kind, artifact.path) == ("merged", tuned.run.folder / "exports/merged")
    assert artifact.proof.verdict is Verdict.PROVED
    figures = artifact.proof.figures
    assert set(figures) == {"kl_mean", "kl_max", "top1_agreement", "positions"}
    assert figures["kl_mean"] < 1e-9
    assert figures["top1_agreement"] == 1.0
    assert figures["positions"] == sum(sum(x != -100 for x in e.labels) for e in tiny.data.validation)
    plain = AutoModelForCausalLM.from_pretrained(artifact.path)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(tiny, plain), logits(tiny, tuned.loaded.model), atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tuned.loaded.base)
    assert not torch.allclose(logits(tiny, plain), logits(tiny, base), atol=1e-2)


def test_the_model_in_memory_is_left_alone(tuned: Tuned) -> None:
    model = tuned.loaded.model.train()
    before, state = [module.training for module in model.modules()], torch.get_rng_state()
    tuned.export()
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupted_export_is_replaced(tuned: Tuned) -> None:
    exports = tuned.run.folder / "exports"
    for leftover in (exports / "merged", exports / ".merged.partial"):
        leftover.mkdir(parents=True, exist_ok=True)
        (leftover / "stale.txt").touch()
    tuned.export()
    assert [path.name for path in exports.iterdir()] == ["merged"]
    assert not (exports / "merged/stale.txt").exists()


# The proof can fail


def test_another_adapter_is_not_proved(tuned: Tuned, tmp_path: Path) -> None:
    shutil.copytree(tuned.saved, tmp_path / "saved")
    weights = load_file(tmp_path / "saved/adapter_model.safetensors")
    name = next(name for name in weights if name.endswith("lora_B.weight"))
    save_file({**weights, name: weights[name] * 1.5}, tmp_path / "saved/adapter_model.safetensors")
    found = attrs.evolve(tuned, saved=tmp_path / "saved").export().proof
    assert found.verdict is Verdict.FAILED
    assert found.figures["kl_mean"] > 1e-4


@pytest.mark.parametrize(
    ("file", "change", "note"),
    [
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, ""),
        ("tokenizer.json", None, "it does not load"),
        ("model.safetensors", None, "it does not load"),
        ("chat_template.jinja", "{{ bos_token }}", "'the chat template'"),
    ],
)
def test_a_broken_folder_is_not_proved(tuned: Tuned, tmp_path: Path, file: str, change: Any, note: str) -> None:
    shutil.copytree(tuned.export().path, tmp_path / "merged")
    path = tmp_path / "merged" / file
    if isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    elif change is None:
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text(change)
    found = proof.prove(tmp_path / "merged", "float32", tuned.run, tuned.loaded, tuned.data)
    assert found.verdict is Verdict.FAILED
    assert note in found.note


def test_a_tokenizer_that_splits_otherwise_is_not_proved(tuned: Tuned, tmp_path: Path) -> None:
    shutil.copytree(tuned.export().path, tmp_path / "merged")
    path = tmp_path / "merged/tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["merges"] = document["model"]["merges"][:5]
    path.write_text(json.dumps(document))
    found = proof.prove(tmp_path / "merged", "float32", tuned.run, tuned.loaded, tuned.data)
    assert found.verdict is Verdict.FAILED
    assert "the tokenizer gives other tokens" in found.note


# Options


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float16", 1e-4), ("bfloat16", 5e-3)])
def test_dtype_is_what_is_written(tuned: Tuned, dtype: str, limit: float) -> None:
    artifact = tuned.export(dtype=dtype)
    weights = load_file(artifact.path / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    assert artifact.proof.verdict is Verdict.PROVED
    assert artifact.proof.note == f"{dtype}, gate {limit:g} on kl_mean"


def test_auto_is_the_type_of_the_base(tiny: Tiny, tune: Callable[..., Tuned]) -> None:
    tuned = tune(LoraOptions())
    base = AutoModelForCausalLM.from_pretrained(tuned.loaded.base, dtype=torch.bfloat16)
    base.save_pretrained(tuned.loaded.base)
    artifact = tuned.export()
    assert json.loads((artifact.path / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_have_the_wanted_size(tuned: Tuned) -> None:
    artifact = tuned.export(max_shard_size="200KB")
    shards = list(artifact.path.glob("*.safetensors"))
    assert len(shards) > 1
    assert max(path.stat().st_size for path in shards) < 210_000
    assert artifact.proof.verdict is Verdict.PROVED


@pytest.mark.parametrize("size", ["big", "4", "GB", "4 GB", "-1MB"])
def test_a_size_must_be_one(size: str) -> None:
    assert Merge(Options()).check() == []
    [problem] = Merge(Options(max_shard_size=size)).check()
    assert problem.key == "plugin.merge.max_shard_size"


# What is in the folder


def test_the_folder_is_complete_and_names_no_place(tiny: Tiny, tuned: Tuned) -> None:
    folder = tuned.export().path
    names = {path.name for path in folder.iterdir()}
    assert names >= {"README.md", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"}
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pkl", ".pth"}
    for path in (path for path in folder.iterdir() if path.suffix != ".safetensors"):
        text = path.read_text("utf-8")
        assert str(tuned.run.folder) not in text, path.name
        assert str(Path.home()) + "/" not in text, path.name
        assert "_name_or_path" not in text
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny.tokenizer.chat_template


def test_places_are_removed_at_any_depth() -> None:
    config = {"_name_or_path": "/home/x", "text_config": {"_name_or_path": "/home/y", "layers": 2}, "vocab_file": "/z"}
    assert _without_places(config) == {"text_config": {"layers": 2}}


def test_answers_end_where_the_data_does(tiny: Tiny, tune: Callable[..., Tuned]) -> None:
    end = tiny.tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    tuned = tune(LoraOptions(), attrs.evolve(tiny.data, end_of_turn=end))
    folder = tuned.export().path
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tiny.tokenizer.eos_token_id, end]


def test_the_card_is_valid_and_says_what_was_trained(tuned: Tuned) -> None:
    _, front, body = (tuned.export().path / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "transformers", "license": "unknown", "tags": ["ftcore"]}
    for said in (
        "21 trained on, 5 held out",
        "| learning_rate | 0.005 |",
        "| r | 16 |",
        "| peft | ",
        "licence is unknown",
    ):
        assert said in body
    assert "| epochs |" not in body  # max_steps is what counted


def test_the_card_links_a_base_from_the_hub(tuned: Tuned) -> None:
    from ftcore_plugins.merge.card import model_card

    loaded = attrs.evolve(tuned.loaded, base="meta-llama/Llama-3.2-1B", revision="abc")
    card = model_card(tuned.run, loaded, tuned.data, tuned.saved, dtype="bfloat16")
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "meta-llama/Llama-3.2-1B"
    assert "revision `abc`" in card


def test_what_other_tools_read_is_put_back(tune: Callable[..., Tuned]) -> None:
    tuned = tune(LoraOptions())
    (Path(tuned.loaded.base) / "tokenizer.model").write_bytes(b"pieces")
    folder = tuned.export().path
    assert (folder / "tokenizer.model").read_bytes() == b"pieces"
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"] for token in added.values()} == set(tuned.loaded.processor.all_special_tokens)
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 10000.0


def test_older_names_of_the_rope_settings() -> None:
    assert dict(_old_rope({"rope_type": "default", "rope_theta": 5.0})) == {"rope_theta": 5.0}
    llama3 = {"rope_type": "llama3", "rope_theta": 5.0, "factor": 8.0}
    assert dict(_old_rope(llama3)) == {"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert dict(_old_rope({"full_attention": {"rope_theta": 5.0}})) == {}
    assert dict(_old_rope(None)) == {}


def test_without_held_out_rows_training_rows_are_compared(tiny: Tiny, tuned: Tuned) -> None:
    data = attrs.evolve(tiny.data, validation=[])
    found = attrs.evolve(tuned, data=data).export().proof
    assert found.figures["positions"] == sum(sum(x != -100 for x in e.labels) for e in tiny.data.train[:8])
