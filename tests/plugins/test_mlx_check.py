"""What the mlx plugin finds before training: packages, machine, widths and architecture. Nothing heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import ModelTable, Problem, Profile, Run
from ftcore_plugins.mlx import Mlx, Options
from ftcore_plugins.mlx.checks import width_fault

LLAMA = {"model_type": "llama", "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 24}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were there."""
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda _: True)
    monkeypatch.setattr("ftcore_plugins.mlx.checks._has_library", lambda: True)


def check(folder: Path, config: dict[str, Any] | None = None, **options: Any) -> list[Problem]:
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    profile = Profile(model=ModelTable(id=str(folder)))
    return list(Mlx(Options(**options)).check(Run(name="r", folder=folder / "run", profile=profile)))


def test_nothing_is_wrong(tmp_path: Path) -> None:
    assert check(tmp_path) == []
    assert check(tmp_path, {**LLAMA, "hidden_size": 128, "head_dim": 32}) == []


def test_missing_packages_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda module: not module.startswith("mlx"))
    [problem] = check(tmp_path)
    assert problem.key == "plugin.mlx"
    assert problem.message == "mlx_lm, mlx.core not installed; run: pip install 'ftcore[mlx]'"


def test_a_model_that_reads_images_needs_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda module: module != "mlx_vlm")
    assert check(tmp_path, {"model_type": "llama"}) == []
    [problem] = check(tmp_path, {"model_type": "gemma3", "vision_config": {"hidden_size": 1152}})
    assert problem.message == "mlx_vlm not installed; run: pip install 'ftcore[mlx-vision]'"


@pytest.mark.skipif(sys.platform != "linux", reason="the library is a package of its own on Linux alone")
def test_mlx_without_its_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.mlx.checks._has_library", lambda: False)
    [problem] = check(tmp_path)
    assert "without its library for Linux; run: pip install 'ftcore[mlx]'" in problem.message


@pytest.mark.parametrize(("system", "machine", "fine"), [("darwin", "arm64", True), ("linux", "x86_64", True)])
def test_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, fine: bool) -> None:
    monkeypatch.setattr("ftcore_plugins.mlx.checks.sys.platform", system)
    monkeypatch.setattr("ftcore_plugins.mlx.checks.platform.machine", lambda: machine)
    assert check(tmp_path) == []


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("win32", "AMD64")])
def test_where_it_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr("ftcore_plugins.mlx.checks.sys.platform", system)
    monkeypatch.setattr("ftcore_plugins.mlx.checks.platform.machine", lambda: machine)
    [problem] = check(tmp_path)
    assert problem.message == f"MLX runs on Apple silicon and on Linux, and this is {system} on {machine}; leave it out"


def test_groups_must_divide_the_widths(tmp_path: Path) -> None:
    [problem] = check(tmp_path, LLAMA)
    assert problem.key == "plugin.mlx.group_size"
    assert problem.message == (
        "64 does not divide the model's hidden_size (96), num_attention_heads x head_dim (96); take 32"
    )
    assert check(tmp_path, group_size=32) == []
    assert check(tmp_path, quantization=("bf16",)) == []
    [problem] = check(tmp_path, {"text_config": {"hidden_size": 100}})
    assert problem.message == "64 does not divide the model's hidden_size (100); take 'bf16' as plugin.mlx.quantization"
    assert width_fault({"hidden_size": 64, "intermediate_size": 192}, 128).endswith("take 64 or 32")


def test_gemma_3_of_few_layers_is_refused(tmp_path: Path) -> None:
    few = "MLX runs Gemma 3 only with 6 layers or more, and this model has 2; leave it out"
    for config in ({"model_type": "gemma3_text", "num_hidden_layers": 2}, gemma3(2), gemma3(2, 6)):
        [problem] = check(tmp_path, config)
        assert (problem.key, problem.message) == ("plugin.mlx", few)
    for config in (gemma3(6), gemma3(2, 2), {"model_type": "llama", "num_hidden_layers": 2}):
        assert check(tmp_path, config) == []


def gemma3(layers: int, pattern: int | None = None) -> dict[str, Any]:
    text = {"num_hidden_layers": layers, "sliding_window_pattern": pattern}
    return {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 32}}


def test_there_must_be_something_to_write(tmp_path: Path) -> None:
    [problem] = check(tmp_path, quantization=())
    assert problem.key == "plugin.mlx.quantization"


def test_a_model_that_mlx_does_not_know_is_found_early(tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="pip install 'ftcore[mlx]'")
    [problem] = check(tmp_path, {"model_type": "gpt_of_mine"})
    assert problem.message == "mlx-lm does not know models of type gpt_of_mine; leave it out, or update mlx-lm"
    assert check(tmp_path, {"model_type": "mistral"}) == []  # under another name


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_broken_configuration_is_the_loaders_business(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, "latin-1")
    assert check(tmp_path) == []


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    program = """
import sys
from ftcore.api import Profile, Run
from ftcore_plugins.mlx import Mlx, Options
from pathlib import Path
Mlx(Options()).check(Run(name="r", folder=Path("r"), profile=Profile()))
print(sorted({"torch", "transformers", "numpy", "mlx_lm", "mlx.core"} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
