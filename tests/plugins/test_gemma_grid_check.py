"""What `gemma_grid` says about its options before anything heavy is imported."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from ftcore.testing import heavy_imports, make_run, plugin_faults
from ftcore_plugins.gemma_grid import GemmaGrid
from grid_kit import WIDE, make_plugin


def test_face() -> None:
    assert not plugin_faults(GemmaGrid)
    assert not heavy_imports("ftcore_plugins.gemma_grid")


def problems(tmp_path: Path, options: dict[str, Any], **tables: Any) -> list[str]:
    return [str(problem) for problem in make_plugin(**options).check(make_run(tmp_path, **tables))]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"frame_size": [240]}, "frame_size: must be width and height"),
        ({"frame_size": [240, 0]}, "frame_size: must be width and height"),
        ({"background": "black"}, "background: 'black' is no colour"),
        ({"prompt": "{contxt} {question}"}, "prompt: nothing fills in {contxt}; there are {context} and {question}"),
        ({"context": "question"}, "question: column 'question' is context as well"),
        ({"frames": ""}, "frames: the column's name is empty"),
        ({"image": []}, "image: the column's name is empty"),
        ({"keys": ["hold"]}, "keys: lack the action_key 'button'; add it"),
        ({"action_key": ""}, "action_key: empty"),
        (
            {"pan_and_scan": True, "frame_size": [240, 160], "min_crop_size": 896},
            "warning: plugin.gemma_grid.pan_and_scan: no effect on the 480x320 grid",
        ),
    ],
)
def test_check(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    [found] = problems(tmp_path, options)
    assert problem in found


def test_check_finds_nothing(tmp_path: Path) -> None:
    assert not problems(tmp_path, {})
    assert not problems(tmp_path, {**WIDE, "frame_size": [240, 160], "prompt": 'answer as {"button": "x"}'})


def test_packing_is_refused(tmp_path: Path) -> None:
    [found] = problems(tmp_path, {}, train={"packing": True})
    assert found.startswith("train.packing: rows with images cannot be packed")


def test_pillow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.requirements.find_spec", lambda name: None)
    [found] = problems(tmp_path, {})
    assert found == "plugin.gemma_grid: PIL not installed; run: pip install 'ftcore[vision]'"


@pytest.mark.parametrize(
    ("torch", "vision", "needs", "told"),
    [
        ("2.13.0+cpu", "0.28.0", "torch==2.13.0", True),
        ("2.13.0", "0.28.0", "torch==2.13.0", False),
        ("2.13.0+cpu", "0.28.0+cpu", "torch (==2.13.0)", False),
        ("2.13.0", "0.27.0", "torch==2.12.0", True),
    ],
)
def test_torchvision_of_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, vision: str, needs: str, told: bool
) -> None:
    versions = {"torch": torch, "torchvision": vision}
    monkeypatch.setattr("ftcore_plugins.gemma_grid.checks.metadata.version", versions.__getitem__)
    monkeypatch.setattr("ftcore_plugins.gemma_grid.checks.metadata.requires", lambda name: ["numpy", needs])
    assert ["warning: plugin.gemma_grid: torchvision" in found for found in problems(tmp_path, {})] == [True] * told


@pytest.mark.parametrize("name", ["gemma_grid", "gemma_grid_tiny"])
def test_profiles(tmp_path: Path, repository: Path, name: str) -> None:
    profile = tomllib.loads((repository / "profiles" / f"{name}.toml").read_text("utf-8"))
    assert not problems(tmp_path, profile["plugin"]["gemma_grid"])
