"""What cannot be merged is said in one sentence, and nothing half-written is left."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcore.api import RunError
from ftcore_plugins.common.merging import Settings, shards, write_merged
from ftcore_plugins.common.merging.adapter import read_adapter
from merge_kit import QUIET, Saved, adapted, by_peft, loaded_from, same
from tiny_kit import Tiny

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]
ADAPTER, CONFIG, WEIGHTS = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def original(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tiny.run(tmp_path_factory.mktemp("original"))
    loaded = tiny.load(run)
    adapted(run, loaded.model, tiny.tokenizer, tiny.data, Path(loaded.base), target_modules=["q_proj", "up_proj"])
    return run.folder


@pytest.fixture
def saved(tiny: Tiny, original: Path, tmp_path: Path) -> Saved:
    """A tuned model that was opened again, with an older artifact in its folder."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    run = tiny.run(tmp_path)
    loaded = attrs.evolve(tiny.load(run), adapter="lora")
    (tmp_path / "exports/merged").mkdir(parents=True)
    (tmp_path / "exports/merged/older.txt").touch()
    return Saved(run, loaded, tiny.data, tmp_path / "adapter")


def refused(saved: Saved, expected: str, **options: Any) -> None:
    """One sentence, and the older artifact is all that there is."""
    with pytest.raises(RunError, match=expected) as caught:
        saved.export(**options)
    assert "\n" not in str(caught.value)
    assert left(saved) == ["merged", "older.txt"]


def left(saved: Saved) -> list[str]:
    return [path.name for path in saved.exports.rglob("*")]


def change(path: Path, new: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(new(load_file(path)), path, {"format": "pt"})


def set_values(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


# Adapters


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (f"{LAYER}.lora_A.weight", (8, 32), r"its part for model\.layers\.0\.self_attn\.q_proj\.weight is for 64 x 32 "
                                            r"values and not 64 x 64"),
        (f"{LAYER}.lora_A.weight", (8,), r"the matrices of .* do not fit together, with 8 and 64 x 8 values"),
        (f"{LAYER}.lora_B.weight", (64, 4), r"the matrices of .* do not fit together, with 8 x 64 and 64 x 4 values"),
        (f"{LAYER.replace('q_proj', 'k_proj')}.lora_A.weight", (8, 64), r"one of the two matrices of .* is missing"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_shape(saved: Saved, name: str, shape: tuple[int, ...], expected: str) -> None:
    change(saved.saved / ADAPTER, lambda tensors: {**tensors, name: torch.ones(shape)})
    refused(saved, rf"merge: the adapter in .*adapter does not belong to .*: {expected}")


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_with_other_layers(saved: Saved, dora: bool) -> None:
    """PEFT itself would pass over them."""
    set_values(saved.saved / CONFIG, use_dora=dora)
    renamed = {"q_proj": "query"}
    change(
        saved.saved / ADAPTER,
        lambda tensors: {re.sub("q_proj", renamed["q_proj"], name): value for name, value in tensors.items()},
    )
    refused(saved, r"does not belong to .*base: it (changes|has) model\.layers\.0\.self_attn\.query")


@pytest.mark.parametrize(
    ("named", "revision", "expected"),
    [
        ("other/model", "abc", r"does not belong to some/model: it was trained on other/model; name that as model\.id"),
        ("some/model", "abd", r"does not belong to some/model: it was trained on revision abd; set model\.revision"),
    ],
)
def test_an_adapter_of_another_base(saved: Saved, named: str, revision: str, expected: str) -> None:
    set_values(saved.saved / CONFIG, base_model_name_or_path=named, revision=revision)
    with pytest.raises(RunError, match=expected):
        read_adapter(saved.saved, attrs.evolve(saved.loaded, base="some/model", revision="abc"))


@pytest.mark.parametrize(("named", "revision"), [("some/model", None), ("/moved/elsewhere", "abd"), (None, None)])
def test_an_adapter_of_a_base_that_was_moved(saved: Saved, named: str | None, revision: str | None) -> None:
    set_values(saved.saved / CONFIG, base_model_name_or_path=named, revision=revision)
    read_adapter(saved.saved, attrs.evolve(saved.loaded, base="some/model", revision="abc"))


def test_an_empty_adapter(saved: Saved) -> None:
    change(saved.saved / ADAPTER, lambda _: {})
    refused(saved, rf"merge: .*{ADAPTER} is empty, no tensor is in it; export from a checkpoint")


def test_an_adapter_that_has_learned_nothing_is_the_base(saved: Saved) -> None:
    change(
        saved.saved / ADAPTER,
        lambda tensors: {name: value * ("lora_A" in name) for name, value in tensors.items()},
    )
    like = by_peft(saved, torch.float32)
    assert same(loaded_from(saved.export().path, like), loaded_from(Path(saved.loaded.base), like))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_adapter_that_holds_no_numbers(saved: Saved, value: float) -> None:
    name = f"{LAYER}.lora_B.weight"

    def poison(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name][3, 2] = value
        return tensors

    change(saved.saved / ADAPTER, poison)
    refused(saved, r"merge: model\.layers\.0\.self_attn\.q_proj\.lora_B\.weight holds values that are infinite or not")


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_sum_that_is_no_number(saved: Saved, use_dora: bool) -> None:
    """Each factor is finite, and their product is not."""
    set_values(saved.saved / CONFIG, use_dora=use_dora)
    change(saved.saved / ADAPTER, lambda tensors: {name: value * 1e30 for name, value in tensors.items()})
    refused(saved, r"merge: model\.layers\.0\..*_proj\.weight holds values that are infinite or not")


@pytest.mark.parametrize("size", [0, 5, 300, -10])
def test_a_truncated_adapter(saved: Saved, size: int) -> None:
    path = saved.saved / ADAPTER
    path.write_bytes(path.read_bytes()[:size])
    refused(saved, rf"merge: .*{ADAPTER} is damaged: .*; export from a checkpoint")


@pytest.mark.parametrize(("name", "expected"), [(ADAPTER, "is not there"), (CONFIG, "is not there; it says how")])
def test_a_part_of_the_adapter_is_missing(saved: Saved, name: str, expected: str) -> None:
    (saved.saved / name).unlink()
    refused(saved, rf"merge: .*{name} {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "Expecting"),
        ("\x00", "Expecting"),
        ("[]", "it has no peft_type"),
        ('{"peft_type": ["LORA"]}', "it has no peft_type"),
        ('{"peft_type": "LORA"}', "it has no r"),
        ('{"peft_type": "LORA", "r": 8, "lora_alpha": null}', "it has no lora_alpha that is a number"),
    ],
)
def test_torn_settings(saved: Saved, text: str, expected: str) -> None:
    (saved.saved / CONFIG).write_text(text)
    refused(saved, rf"merge: .*{CONFIG} is damaged: {expected}")


def test_settings_of_another_rank(saved: Saved) -> None:
    set_values(saved.saved / CONFIG, r=4)
    refused(saved, r"merge: .* does not belong to its own settings: .*_proj has rank 8 and not 4; export again")


@pytest.mark.parametrize("pattern", [[1], {"(": 8}, {"q_proj": "a"}])
def test_patterns_that_are_none(saved: Saved, pattern: Any) -> None:
    set_values(saved.saved / CONFIG, alpha_pattern=pattern)
    refused(saved, rf"merge: .*{CONFIG} is damaged: its alpha_pattern is no table of patterns and numbers")


@pytest.mark.parametrize(
    "values",
    [
        {"init_lora_weights": ["x"]},
        {"peft_type": "NONSENSE"},
        {"peft_type": "PROMPT_TUNING"},
        {"layer_replication": [[0, 1], [0, 1]]},
    ],
    ids=str,
)
def test_settings_that_peft_trips_over(saved: Saved, values: dict[str, Any]) -> None:
    set_values(saved.saved / CONFIG, **values)
    refused(saved, "merge: the adapter cannot be merged: ")


# The base


@pytest.fixture
def in_shards(saved: Saved) -> Path:
    base = Path(saved.loaded.base)
    (base / WEIGHTS).unlink()
    saved.loaded.model.save_pretrained(base, max_shard_size="150KB")
    return base


def test_a_shard_is_missing(saved: Saved, in_shards: Path) -> None:
    shard = sorted(in_shards.glob("*.safetensors"))[1]
    shard.unlink()
    refused(saved, rf"model\.id: .*base has no {shard.name}, which its model\.safetensors\.index\.json names")


def test_a_shard_is_truncated(saved: Saved, in_shards: Path) -> None:
    shard = sorted(in_shards.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(saved, rf".*{shard.name} is damaged: .*; take a whole copy of it")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": []}'])
def test_a_torn_index(saved: Saved, in_shards: Path, text: str) -> None:
    (in_shards / "model.safetensors.index.json").write_text(text)
    refused(saved, r"model\.safetensors\.index\.json is damaged: ")


def test_no_weights_at_all(saved: Saved) -> None:
    (Path(saved.loaded.base) / WEIGHTS).unlink()
    refused(saved, r"model\.id: .*base has neither model\.safetensors nor model\.safetensors\.index\.json")


def test_a_weight_is_in_no_file(saved: Saved) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def drop(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {other: value for other, value in tensors.items() if other != name}

    change(Path(saved.loaded.base) / WEIGHTS, drop)
    refused(saved, rf"merge: {re.escape(name)} is in none of the base model's files")


def test_a_base_that_holds_no_numbers(saved: Saved) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.norm.weight"][5] = float("nan")
        return tensors

    change(Path(saved.loaded.base) / WEIGHTS, poison)
    refused(saved, r"merge: model\.norm\.weight holds values that are infinite or not a number")


def test_a_value_that_the_type_cannot_hold(saved: Saved) -> None:
    def enlarge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.norm.weight"][5] = 1e5
        return tensors

    change(Path(saved.loaded.base) / WEIGHTS, enlarge)
    refused(saved, r"merge: model\.norm\.weight holds values that are infinite .*", dtype="float16")


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_disk_that_fills_up_leaves_nothing(saved: Saved, monkeypatch: pytest.MonkeyPatch, use_dora: bool) -> None:
    """What to say of it, the engine knows."""
    set_values(saved.saved / CONFIG, use_dora=use_dora)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "_write_all", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(OSError, match="No space left"):
        saved.export()
    assert left(saved) == ["merged", "older.txt"]


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "", "BFLOAT16"])
def test_a_type_that_no_weights_have(saved: Saved, dtype: str) -> None:
    target = saved.exports / "merged"
    with pytest.raises(RunError, match=rf"merge: no weights are written in {dtype!r}; set plugin\.merge\.dtype to"):
        write_merged(target, saved.run, saved.loaded, saved.data, saved.saved, settings=Settings(dtype=dtype))
    assert [path.name for path in target.iterdir()] == ["older.txt"]
