"""The merged export: plain transformers loads it, other tools find all they read, and it names no local place."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from ftcore_plugins.common.merging.complete import older_names, without_places
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.merge import Merge, Options
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from merge_kit import QUIET, Saved, adapted, disturb, same, written
from tiny_kit import FakeControl, Tiny, make_run

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]
LORA = LoraOptions(dropout=0.1)
TRAIN = {"max_steps": 12, "batch_size": 8, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def tune(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Saved]:
    @cache
    def make(lora: LoraOptions | None) -> Saved:
        folder = tmp_path_factory.mktemp("tuned")
        run = tiny.run(folder, train=TRAIN)
        loaded = tiny.load(run)
        loaded = Lora(lora).adapt(run, loaded) if lora else loaded
        trainer = Sft(SftOptions()).make_trainer(run, loaded, tiny.data, {})
        trainer.train(FakeControl(folder / "checkpoints"), None)
        trainer.save(folder / "saved")
        return Saved(run, loaded, tiny.data, folder / "saved")

    return make


@pytest.fixture(scope="module")
def tuned(tune: Callable[..., Saved]) -> Saved:
    return tune(LORA)


@pytest.fixture
def drawn(tiny: Tiny, tmp_path: Path) -> Saved:
    """A random adapter, which takes no training, in a folder with a name that wants care."""
    run = tiny.run(tmp_path / 'Zoë\'s "runs"')
    loaded = tiny.load(run)
    return adapted(run, loaded.model, tiny.tokenizer, tiny.data, Path(loaded.base), target_modules=["q_proj"])


def logits(tiny: Tiny, model: Any) -> torch.Tensor:
    batch = {name: value for name, value in tiny.data.collate(tiny.data.validation).items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits.float()


@pytest.mark.parametrize(
    "lora",
    [None, LORA, LoraOptions(dora=True, rslora=True, modules_to_save=("lm_head",))],
    ids=["full", "lora", "dora with lm_head"],
)
def test_plain_transformers_loads_what_was_trained(
    tiny: Tiny, tune: Callable[..., Saved], lora: LoraOptions | None
) -> None:
    tuned = tune(lora)
    artifact = tuned.export()
    assert (artifact.kind, artifact.path) == ("merged", tuned.run.folder / "exports/merged")
    plain = AutoModelForCausalLM.from_pretrained(artifact.path)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(tiny, plain), logits(tiny, tuned.loaded.model), atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tuned.loaded.base)
    assert not torch.allclose(logits(tiny, plain), logits(tiny, base), atol=1e-2)


def test_its_details_say_how_to_load_it(drawn: Saved) -> None:
    artifact, names = drawn.export(), dict[str, Any]()
    exec(artifact.details["run"], names)
    assert same(dict(names["model"].state_dict()), written(artifact.path))


def test_the_model_in_memory_is_left_alone(tuned: Saved) -> None:
    model = tuned.loaded.model.train()
    before, state = [module.training for module in model.modules()], torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tuned.export()
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert same(dict(model.state_dict()), weights)


def test_an_older_or_interrupted_export_is_replaced(tuned: Saved) -> None:
    exports = tuned.run.folder / "exports"
    for leftover in (exports / "merged", exports / ".merged.partial"):
        leftover.mkdir(parents=True, exist_ok=True)
        (leftover / "stale.txt").touch()
    tuned.export()
    assert [path.name for path in exports.iterdir()] == ["merged"]
    assert not (exports / "merged/stale.txt").exists()


# Options


def test_auto_is_the_type_of_the_base(tiny: Tiny, drawn: Saved) -> None:
    base = AutoModelForCausalLM.from_pretrained(drawn.loaded.base, dtype=torch.bfloat16)
    base.save_pretrained(drawn.loaded.base)
    config = Path(drawn.loaded.base) / "config.json"
    for unsaid in (False, True):
        if unsaid:  # then the files say it
            config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": None}))
        artifact = drawn.export()
        assert json.loads((artifact.path / "config.json").read_text())["dtype"] == "bfloat16"
        assert artifact.details["dtype"] == "bfloat16"


@pytest.mark.parametrize("size", ["big", "4", "GB", "4 GB", "-1MB", "0GB", "²GB"])
def test_a_size_must_be_one(size: str) -> None:
    assert Merge(Options()).check() == []
    [problem] = Merge(Options(max_shard_size=size)).check()
    assert problem.key == "plugin.merge.max_shard_size"


@pytest.mark.parametrize(("dtype", "size"), [("auto", 2000), ("bfloat16", 2000), ("float32", 4000)])
def test_its_size_is_known_before(dtype: str, size: int) -> None:
    assert Merge(Options(dtype=dtype)).export_size(1000) == size


# What is in the folder


def test_the_folder_is_complete_and_names_no_place(tiny: Tiny, tuned: Saved) -> None:
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
    assert without_places(config) == {"text_config": {"layers": 2}}


def test_answers_end_where_the_data_does(tiny: Tiny, drawn: Saved) -> None:
    end = tiny.tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    folder = attrs.evolve(drawn, data=attrs.evolve(tiny.data, end_of_turn=end)).export().path
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tiny.tokenizer.eos_token_id, end]


def test_what_other_tools_read_is_put_back(tiny: Tiny, drawn: Saved) -> None:
    (Path(drawn.loaded.base) / "tokenizer.model").write_bytes(b"pieces")
    folder = drawn.export().path
    assert (folder / "tokenizer.model").read_bytes() == b"pieces"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    added = {token["content"] for token in tokenizer["added_tokens_decoder"].values()}
    assert added == set(drawn.loaded.processor.all_special_tokens)
    assert tokenizer["chat_template"] == tiny.tokenizer.chat_template
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert set(tokenizer["additional_special_tokens"]) <= added
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 10000.0
    again = AutoTokenizer.from_pretrained(folder)
    assert again.all_special_tokens == tiny.tokenizer.all_special_tokens
    text = "<|start_header_id|>user<|end_header_id|> a colour <|eot_id|>"
    assert again(text).input_ids == tiny.tokenizer(text).input_ids


def test_a_model_that_sees_has_its_processor_in_both_forms(tiny: Tiny, tmp_path: Path) -> None:
    run, plugin = make_run(tmp_path), TinyModel(TinyOptions(architecture="gemma3"))
    loaded = plugin.load_model(run, plugin.load_processor(run, tiny.rows), None)
    saved = adapted(run, loaded.model, loaded.processor, tiny.data, Path(loaded.base), target_modules=["q_proj"])
    folder = saved.export().path
    for name in ("processor_config.json", "preprocessor_config.json"):
        assert "image_mean" in (folder / name).read_text("utf-8"), name
    again = AutoProcessor.from_pretrained(folder)
    assert again.image_processor.to_dict() == loaded.processor.image_processor.to_dict()
    assert again.chat_template == loaded.processor.chat_template
    text = json.loads((folder / "config.json").read_text("utf-8"))["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"], text["sliding_window_pattern"]) == (1e6, 1e4, 6)


def test_older_names_of_the_rope_settings() -> None:
    def added(rope: Any, **config: Any) -> dict[str, Any]:
        config |= {"rope_parameters": rope}
        return {name: value for name, value in older_names(config).items() if name not in config}

    assert added({"rope_type": "default", "rope_theta": 5.0}) == {"rope_theta": 5.0}
    llama3 = {"rope_type": "llama3", "rope_theta": 5.0, "factor": 8.0}
    assert added(llama3) == {"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    each = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1.0},
    }
    assert added(each) == {}  # transformers would take a single set of settings in the place of both
    gemma = {"rope_theta": 5.0, "rope_local_base_freq": 1.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert added(each, model_type="gemma3_text") == gemma
    assert added(None) == {}


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("LlamaConfig", {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 512}),
        ("Gemma3TextConfig", {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    ],
)  # fmt: skip
def test_transformers_reads_both_names_as_the_same(kind: str, rope: Any, tmp_path: Path) -> None:
    import transformers

    config = getattr(transformers, kind)(rope_parameters=rope)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    for left_out in ((), ("rope_parameters",)):
        both = older_names({**config.to_dict(), **json.loads(path.read_text("utf-8"))})
        path.write_text(json.dumps({name: value for name, value in both.items() if name not in left_out}), "utf-8")
        assert type(config).from_pretrained(tmp_path).rope_parameters == config.rope_parameters


# One folder for several exporters


def test_the_merged_folder_of_the_same_weights_is_used_again(drawn: Saved) -> None:
    shared = drawn.exports / ".work/merged"
    first = drawn.shared()
    assert first.folder == shared
    assert first.dtype == "float32"
    stamp = (shared / "model.safetensors").stat().st_mtime_ns
    assert drawn.shared() == first
    assert (shared / "model.safetensors").stat().st_mtime_ns == stamp
    artifact = drawn.export()
    assert drawn.shared().folder == artifact.path
    assert drawn.export(dtype="bfloat16").path == artifact.path
    assert drawn.shared().folder == shared  # bfloat16 would lose what the base has


@pytest.mark.parametrize("change", ["adapter", "base", "generation", "settings", "torn", "turn", "signature"])
def test_a_stale_folder_is_never_used(drawn: Saved, change: str) -> None:
    merged = drawn.export().path
    assert drawn.shared().folder == merged
    if change == "adapter":
        disturb(drawn.loaded.model)
        drawn.loaded.model.save_pretrained(drawn.saved, save_embedding_layers=False)
    elif change == "base":
        path = Path(drawn.loaded.base) / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif change == "generation":
        (Path(drawn.loaded.base) / "generation_config.json").write_text('{"eos_token_id": 7}')
    elif change == "settings":
        path = drawn.saved / "adapter_config.json"
        path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    elif change == "torn":
        (merged / "model.safetensors").write_bytes(b"")
    elif change == "turn":
        drawn = attrs.evolve(drawn, data=attrs.evolve(drawn.data, end_of_turn=4))
    else:
        (merged / ".merged.json").write_text("[]")
    assert drawn.shared().folder == drawn.exports / ".work/merged"


def test_large_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from ftcore_plugins.common.merging import digest

    monkeypatch.setattr(digest, "SMALL", 1000)
    path = tmp_path / "weights"
    path.write_bytes(bytes(5_000_000))
    stamp = path.stat().st_mtime_ns
    before = digest.digest_of([path], "a")
    assert digest.digest_of([path], "a") == before
    assert digest.digest_of([path], "b") != before
    path.write_bytes(bytes(2_000_000) + b"trained" * 10_000 + bytes(2_930_000))
    os.utime(path, ns=(stamp, stamp))
    assert digest.digest_of([path], "a") != before
