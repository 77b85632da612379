"""The proof of MLX folders: faults are caught in MLX itself, and what is only rounding is not one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ftcore.api import Artifact, Verdict
from ftcore_plugins.common.proof.comparison import Findings
from ftcore_plugins.common.proof.verdict import EXACT, ROUNDED
from ftcore_plugins.mlx import Mlx, Options
from ftcore_plugins.mlx.proof import LEAST, MOST, TIMES, UNMEASURED, gate
from ftcore_plugins.mlx.recognition import is_mlx, quantization_of
from ftcore_plugins.mlx.settings import as_read, unread_rope
from merge_kit import QUIET, Saved
from mlx_kit import LLAMA3, Asked, Shipped, ask_all, ship
from proof_kit import edit
from tiny_kit import Tiny

pytest.importorskip("mlx_lm", reason="pip install 'ftcore[mlx]'")
pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]


@pytest.fixture(scope="module")
def shipped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    return ship(tiny, tmp_path_factory.mktemp("mlx"))


# What is in a folder that was damaged


def change(folder: Path, word: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the bytes of the first tensor with a word in its name."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(name for name in sorted(header) if word in name)
    start, end = (8 + size + offset for offset in header[name]["data_offsets"])
    data[start:end] = how(np.frombuffer(data[start:end], np.uint16)).tobytes()
    path.write_bytes(data)


def turn_signs(folder: Path) -> None:
    change(folder, "layers.1.self_attn.v_proj.weight", lambda bits: bits ^ 0x8000)


def poison(folder: Path) -> None:
    change(folder, "embed_tokens.scales", lambda bits: np.full_like(bits, 0x7FC0))


def keep_newer_rope(folder: Path) -> None:
    edit(folder / "config.json", rope_theta=None, rope_scaling=None)


def use_another_base(folder: Path) -> None:
    edit(folder / "config.json", rope_theta=100.0, rope_parameters=None)


def lose_tokens(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        document = json.loads(path.read_text())
        lost = "<|start_header_id|>"
        if "added_tokens" in document:
            document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != lost]
            document["model"]["vocab"].pop(lost, None)
        else:
            document.pop("added_tokens_decoder")
            document["additional_special_tokens"] = []
        path.write_text(json.dumps(document))


def lose_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    edit(folder / "tokenizer_config.json", chat_template=None)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def empty(folder: Path) -> None:
    (folder / "config.json").write_text("")


DAMAGES = {
    "signs": ("bf16", turn_signs, "its answers differ from the tuned model's"),
    "poisoned": ("4bit", poison, "no number (NaN)"),
    "newer-rope": ("bf16", keep_newer_rope, "config.json has rope_scaling in rope_parameters alone"),
    "newer-rope-4bit": ("4bit", keep_newer_rope, "config.json has rope_scaling in rope_parameters alone"),
    "another-base": ("bf16", use_another_base, "its answers differ from the tuned model's"),
    "tokens": ("8bit", lose_tokens, "apart into other tokens"),
    "template": ("8bit", lose_template, "its chat template gives other tokens"),
    "truncated": ("bf16", truncate, "it does not load"),
    "config": ("4bit", empty, "it does not load"),
}


@pytest.fixture(scope="module")
def damaged(shipped: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    scratch = tmp_path_factory.mktemp("damaged")
    folders = [shipped.copy(kind, scratch / name, damage) for name, (kind, damage, _) in DAMAGES.items()]
    return ask_all(shipped.reference, folders, scratch)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_fails(damaged: Asked, name: str) -> None:
    proof = damaged.proofs[name]
    assert proof.verdict is Verdict.FAILED
    assert DAMAGES[name][2] in proof.note


# What was wrong before anything was converted


def flip_a_sign(tuned: Saved, folder: Path) -> Saved:
    """The adapter with one matrix of one layer turned around."""
    shutil.copytree(tuned.saved, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in sorted(weights) if "v_proj.lora_B" in name)
    save_file({**weights, name: -weights[name]}, folder / "adapter_model.safetensors")
    return attrs.evolve(tuned, saved=folder)


def test_a_fault_that_rounding_hides_is_seen_before_it(shipped: Shipped, tmp_path: Path) -> None:
    tuned = flip_a_sign(shipped.tuned, tmp_path / "saved")
    plugin = Mlx(Options())
    arguments = (tuned.run, tuned.loaded, tuned.data, tuned.saved, tmp_path / "exports")
    [artifact] = plugin.export(*arguments)
    proof = plugin.verify(artifact, shipped.reference)
    assert proof is not None
    assert proof.verdict is Verdict.FAILED
    assert proof.note.startswith("4bit, already before it was quantized: float32: its answers differ")
    assert proof.figures["kl_mean"] > EXACT.kl_mean


def test_good_weights_are_proved_through_the_hook(
    shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned, plugin = shipped.tuned, Mlx(Options(group_size=32))
    [artifact] = plugin.export(tuned.run, tuned.loaded, tuned.data, tuned.saved, tmp_path / "exports")
    source = tmp_path / "exports/.work/mlx/whole"
    with safe_open(source / "model.safetensors", "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118 - no mapping
    proof = plugin.verify(artifact, shipped.reference)
    assert proof is not None
    assert proof.verdict is Verdict.PROVED
    assert proof.note.startswith("4bit, gate ")
    shutil.rmtree(tmp_path / "exports/.work")  # as the engine does in the end; it can still be proved later
    asked: list[Path] = []
    monkeypatch.setattr("ftcore_plugins.mlx.proof.ask", lambda _, path, *__: asked.append(path) or Findings(error="x"))
    plugin.verify(attrs.evolve(artifact, kind=""), shipped.reference)
    assert asked == [artifact.path]


# Gates


def test_float32_has_the_strict_gate_where_the_reference_is_exact() -> None:
    assert gate("float32", Findings(), exact=True) == EXACT
    assert gate("float32", Findings(), exact=False) == ROUNDED


def test_all_else_has_the_gate_of_its_rounding() -> None:
    found = gate("4bit", Findings(figures={"rounding_kl": 0.1}), exact=True)
    assert found.kl_mean == pytest.approx(TIMES * 0.1)
    assert found.margin > LEAST.margin
    assert gate("bf16", Findings(figures={"rounding_kl": 1e-5}), exact=True) == LEAST
    assert gate("mxfp4", Findings(), exact=True) == UNMEASURED
    assert gate("4bit", Findings(figures={"rounding_kl": 9.0}), exact=True).kl_mean == MOST


# Folders of strangers


def test_what_is_not_for_mlx_is_left_to_others(shipped: Shipped, tmp_path: Path) -> None:
    plugin = Mlx(Options())
    merged = shipped.tuned.shared().folder
    assert not is_mlx(merged)
    for kind, path in (
        ("merged", shipped.path("bf16")),
        ("", merged),
        ("", tmp_path),
        ("", tmp_path / "no"),
        ("", __file__),
    ):
        assert plugin.verify(Artifact(kind=kind, path=Path(path)), shipped.reference) is None


def test_what_a_folder_says_of_itself(shipped: Shipped, tmp_path: Path) -> None:
    assert all(is_mlx(shipped.path(name)) and quantization_of(shipped.path(name)) == name for name in shipped.artifacts)
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}')
    assert is_mlx(tmp_path)
    assert quantization_of(tmp_path) == "mxfp4"
    for text in ("", "[]", '{"quantization": 1}'):
        (tmp_path / "config.json").write_text(text)
        (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
        assert quantization_of(tmp_path) == ""


def test_without_mlx_nothing_is_said_to_be_proved(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda module: not module.startswith("mlx"))
    proof = Mlx(Options()).verify(shipped.artifacts["bf16"], shipped.reference)
    assert proof is not None
    assert proof.verdict is Verdict.NOT_PROVED
    assert "pip install 'ftcore[mlx]'" in proof.note


# Settings that MLX passes over


def test_rope_settings_that_nothing_reads_are_named() -> None:
    plain = {"rope_type": "default", "rope_theta": 5e5}
    older = SimpleNamespace(rope_theta=10000.0, rope_scaling=None)
    assert "has rope_theta in rope_parameters alone" in unread_rope({"rope_parameters": plain}, older)
    assert "has rope_scaling in" in unread_rope({"rope_parameters": LLAMA3}, older)
    assert unread_rope({"rope_parameters": plain}, SimpleNamespace(rope_theta=5e5, rope_scaling=None)) == ""
    assert unread_rope({"rope_parameters": plain}, SimpleNamespace(rope_theta=1.0, rope_parameters=plain)) == ""
    assert unread_rope({"rope_theta": 5e5}, older) == ""
    assert unread_rope({"rope_parameters": LLAMA3}, SimpleNamespace()) == ""


def test_rope_settings_of_layers_that_see_a_window() -> None:
    two = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    read = {"rope_global_base_freq": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"factor": 8.0}}
    assert unread_rope({"rope_parameters": two}, SimpleNamespace(**read)) == ""
    assert "rope_scaling" in unread_rope({"rope_parameters": two}, SimpleNamespace(**{**read, "rope_scaling": None}))
    assert "rope_theta" in unread_rope({"rope_parameters": two}, SimpleNamespace(**{**read, "rope_local_base_freq": 1}))


def test_what_mlx_vlm_looks_for_elsewhere_is_put_there() -> None:
    config = {"mm_tokens_per_image": 4, "text_config": {"hidden_size": 64}}
    text = {"hidden_size": 64, "mm_tokens_per_image": 4}
    assert as_read(config) == {"mm_tokens_per_image": 4, "hidden_size": 64, "text_config": text}
    assert as_read({"hidden_size": 64}) == {"hidden_size": 64}
