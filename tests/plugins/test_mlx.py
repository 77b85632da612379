"""The export for MLX: what is in the folders, what the options change, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ftcore.api import RunError, Verdict
from ftcore_plugins.mlx import Mlx, Options
from ftcore_plugins.mlx.formats import FORMATS
from ftcore_plugins.mlx.writer import Order, _reason, require_convertible
from merge_kit import QUIET, Saved
from mlx_kit import ALL, LLAMA3, Shipped, ask_all, export, ship, tune
from proof_kit import edit
from tiny_kit import Tiny

pytest.importorskip("mlx_lm", reason="pip install 'ftcore[mlx]'")
pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]


@pytest.fixture(scope="module")
def shipped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    return ship(tiny, tmp_path_factory.mktemp("mlx"))


@pytest.fixture
def tuned(tiny: Tiny, tmp_path: Path) -> Saved:
    return tune(tiny, tmp_path)


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text("utf-8")))


def tensors(folder: Path) -> dict[str, str]:
    """The type of each tensor, by its name."""
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "mlx"}
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping


def test_every_kind_is_proved(shipped: Shipped, tmp_path: Path) -> None:
    folders = [shipped.path(name) for name in ALL]
    asked = ask_all(shipped.reference, folders, tmp_path)
    assert {proof.verdict for proof in asked.proofs.values()} == {Verdict.PROVED}, asked.proofs
    assert not asked.heavy
    kl = [asked.proofs[folder.name].figures["kl_mean"] for folder in folders]
    assert kl[0] < 5e-3 > kl[1]
    assert kl[2] < kl[3] < kl[4]
    rounding = [asked.proofs[folder.name].figures["rounding_kl"] for folder in folders]
    assert rounding[0] < rounding[2] > rounding[1]
    assert rounding[2] < rounding[3] < rounding[4]


def test_fewer_bits_are_fewer_bytes(shipped: Shipped) -> None:
    sizes = [(shipped.path(name) / "model.safetensors").stat().st_size for name in ALL]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert sizes[0] > sizes[2] > sizes[3] > sizes[4]
    names = {name: set(tensors(shipped.path(name)).values()) for name in ALL}
    assert names["bf16"] == {"BF16"}
    assert names["fp16"] == {"F16"}
    assert names["4bit"] == {"BF16", "U32"}
    settings = {name: config_of(shipped.path(name)).get("quantization") for name in ALL}
    assert settings["bf16"] is settings["fp16"] is None
    assert settings["8bit"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert settings["4bit"] == {"group_size": 32, "bits": 4, "mode": "affine"}


def test_the_folder_has_all_that_the_merged_model_has(shipped: Shipped) -> None:
    merged = shipped.tuned.shared().folder
    for name in ("bf16", "4bit"):
        folder = shipped.path(name)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            assert (folder / file).read_bytes() == (merged / file).read_bytes(), file
        assert "added_tokens_decoder" in json.loads((folder / "tokenizer_config.json").read_text())
        config = config_of(folder)
        assert config["eos_token_id"] == [shipped.tuned.loaded.processor.eos_token_id]
        assert config["rope_parameters"] == LLAMA3
        assert config["rope_theta"] == LLAMA3["rope_theta"]
        assert config["rope_scaling"] == {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
        assert config["dtype"] == "bfloat16"
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert config_of(shipped.path("fp16"))["dtype"] == "float16"


def test_it_names_no_place(shipped: Shipped) -> None:
    for path in (path for name in ALL for path in shipped.path(name).iterdir() if path.suffix != ".safetensors"):
        text = path.read_text("utf-8")
        assert str(shipped.tuned.run.folder) not in text, path
        assert ".work" not in text, path
    assert "# tiny" in (shipped.path("4bit") / "README.md").read_text()


def test_the_details_say_how_to_run_it(shipped: Shipped) -> None:
    artifact = shipped.artifacts["8bit"]
    assert artifact.kind == "mlx"
    assert artifact.path == shipped.tuned.exports / "mlx/tiny-8bit"
    assert artifact.details["run"].startswith(f"mlx_lm.generate --model {artifact.path} --prompt ")
    assert artifact.details["dtype"] == "bfloat16"
    assert artifact.details["merge"]
    assert "group_size" not in shipped.artifacts["bf16"].details


def test_a_full_model_without_an_adapter(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    loaded = tiny.load(run)
    loaded.model.save_pretrained(tmp_path / "saved")
    [artifact] = export(Saved(run, loaded, tiny.data, tmp_path / "saved"), quantization=("bf16",))
    assert set(tensors(artifact.path).values()) == {"BF16"}


def test_what_is_there_is_replaced_whole(shipped: Shipped, tuned: Saved) -> None:
    folder = tuned.exports / "mlx"
    for leftover in (folder / "tiny-bf16", folder / ".tiny-bf16.partial", tuned.exports / ".work/mlx/bf16"):
        leftover.mkdir(parents=True)
        (leftover / "stale.txt").touch()
    (folder / "other").mkdir()
    written = export(tuned, quantization=("4bit", "bf16", "bf16"))
    # What the other is made from comes first, whatever the order of the profile is.
    assert [artifact.path.name for artifact in written] == ["tiny-bf16", "tiny-4bit"]
    assert sorted(path.name for path in folder.iterdir()) == ["other", "tiny-4bit", "tiny-bf16"]
    assert not (folder / "tiny-bf16/stale.txt").exists()
    larger_groups, smaller = (path / "model.safetensors" for path in (written[1].path, shipped.path("4bit")))
    assert written[1].details["group_size"] == "64"
    assert larger_groups.stat().st_size < smaller.stat().st_size


def test_the_size_is_told_before(tuned: Saved) -> None:
    merged, whole = 2, 2
    assert Options().quantization == ("4bit",)
    assert Mlx(Options(quantization=("bf16",))).export_size(1600) == 1600 * (merged + 2)
    assert Mlx(Options(quantization=("4bit",))).export_size(1600) == 1600 * (merged + whole + 0.5625)
    assert Mlx(Options(quantization=("4bit", "8bit"), group_size=32)).export_size(1600) == 1600 * (4 + 0.625 + 1.125)


# Refused


def test_groups_that_do_not_fit_are_refused(tuned: Saved) -> None:
    with pytest.raises(RunError, match=r"plugin.mlx.group_size: 128 does not divide the model's hidden_size \(64\)"):
        export(tuned, group_size=128)
    assert not list((tuned.exports / "mlx").glob("*"))
    whole = Order(run=tuned.run, merged=tuned.shared().folder, formats=[FORMATS["fp16"]], group_size=128)
    require_convertible(whole)


def test_gemma_3_of_few_layers_is_refused_before_it_is_converted(tuned: Saved) -> None:
    merged = tuned.shared().folder
    edit(merged / "config.json", model_type="gemma3_text")
    edit(merged / ".merged.json", files={})
    with pytest.raises(RunError, match=r"^plugin\.mlx: MLX runs Gemma 3 only with 6 layers or more, and"):
        export(tuned)
    assert not list((tuned.exports / "mlx").glob("*"))


def test_a_model_that_mlx_does_not_know_is_refused_in_one_sentence(tuned: Saved) -> None:
    merged = tuned.shared().folder
    edit(merged / "config.json", model_type="gpt_of_mine")
    edit(merged / ".merged.json", files={})
    with pytest.raises(RunError) as caught:
        export(tuned)
    assert str(caught.value) == "mlx: the merged model cannot be converted: Model type gpt_of_mine not supported."
    assert not list((tuned.exports / "mlx").glob("*"))


def test_a_missing_package_is_named_before_anything_is_written(tuned: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = tuned.shared().folder
    edit(merged / "config.json", vision_config={"model_type": "siglip_vision_model"})
    edit(merged / ".merged.json", files={})
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda module: module != "mlx_vlm")
    with pytest.raises(RunError) as caught:
        export(tuned)
    assert "mlx_vlm not installed; run: pip install 'ftcore[mlx-vision]'; then: ftcore export" in str(caught.value)


def test_a_file_in_the_way_is_told(tuned: Saved) -> None:
    tuned.exports.mkdir()
    (tuned.exports / "mlx").touch()
    with pytest.raises(RunError, match=r"^mlx: .*/exports/mlx.* cannot be written: .*; make room, or name another"):
        export(tuned, quantization=("bf16",))


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (
            1,
            "[write] Unable to write 13015 bytes to file.",
            "/w cannot be written: [write] Unable to write 13015 bytes",
        ),
        (-9, "", "the merged model cannot be converted: SIGKILL, most likely since memory ran out"),
        (1, "[INFO] loading\nno such layer", "the merged model cannot be converted: no such layer"),
    ],
)
def test_a_converter_that_fails_is_told(
    tuned: Saved, monkeypatch: pytest.MonkeyPatch, code: int, words: str, told: str
) -> None:
    ended = subprocess.CompletedProcess([], code, b"", words.encode())
    assert told in _reason(ended, Path("/w"))
    monkeypatch.setattr("ftcore_plugins.mlx.writer.convert_apart", lambda _: ended)
    with pytest.raises(RunError, match=r"^mlx: "):
        export(tuned)
    assert not list((tuned.exports / "mlx").glob("*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tuned: Saved) -> None:
    (tuned.exports / "mlx").mkdir(parents=True)
    (tuned.exports / "mlx").chmod(0o500)
    with pytest.raises(RunError, match="permission denied"):
        export(tuned, quantization=("bf16",))
    assert list((tuned.exports / "mlx").iterdir()) == []
