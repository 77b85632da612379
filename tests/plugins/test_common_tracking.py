"""What trackers share: names, facts and rows out of a journal that may hold anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import EventKind
from ftcore.manifest import new_manifest
from ftcore_plugins.common import tracking
from tracking_kit import ROW, event, png


def test_settings_become_flat_scalars_without_logins() -> None:
    settings = {
        "train": {"learning_rate": 2e-4, "packing": False, "max_steps": None},
        "plugin": {"lora": {"r": 8, "targets": ["q", "v"]}},
        "data": {"id": "see https://me:secret@host/x and https://host/y@z"},
    }
    assert tracking.flat(settings) == {
        "train.learning_rate": 2e-4,
        "train.packing": False,
        "train.max_steps": "null",
        "plugin.lora.r": 8,
        "plugin.lora.targets": '["q", "v"]',
        "data.id": "see https://host/x and https://host/y@z",
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("loss", "train/loss"),
        ("system/gpu0/memory", "system/gpu0/memory"),
        ("eval_loss", "eval/loss"),
        ("eval_target/left", "counts/target/left"),
        ("eval_confusion/left/right", "counts/confusion/left/right"),
        ("eval_target", "eval/target"),
        ("eval_easy/exact", "eval/easy/exact"),
    ],
)
def test_figures_are_grouped(name: str, shown: str) -> None:
    assert tracking.grouped({name: 1.0}) == {shown: 1.0}


def test_counts_have_the_same_classes_in_the_same_order() -> None:
    scores = {"exact": 0.5, "target/b": 2, "target/a": 1, "predicted/a": 3, "predicted/c": 1, "predicted/d": "no"}
    found = tracking.counts(scores)
    assert found == {"target": {"b": 2, "a": 1, "c": 0}, "predicted": {"b": 0, "a": 3, "c": 1}}
    assert list(found["target"]) == list(found["predicted"])
    assert tracking.counts({"exact": 1.0}) == {}
    assert list(tracking.counted(event(EventKind.ANSWERS, when="during", scores=scores))) == ["target", "predicted"]
    after = tracking.counted(event(EventKind.ANSWERS, when="after", scores=scores))
    assert after == {"target_after": found["target"], "predicted_after": found["predicted"]}
    assert tracking.counted(event(EventKind.ANSWERS, when="during", scores=None)) == {}


def test_only_what_was_judged_before_and_after_is_named_so() -> None:
    values = {"loss": 2.0, "scores": {"exact": 0.5, "target/a": 1, "note": "text"}}
    after = event(EventKind.ANSWERS, 9, when="after", **values)
    assert tracking.judged(after) == {"eval/loss_after": 2.0, "eval/exact_after": 0.5}
    assert tracking.judged(event(EventKind.ANSWERS, 9, when="during", **values)) == {}
    assert tracking.judged(event(EventKind.ANSWERS, 0, when="before", loss=None, scores=None)) == {}


def test_images_are_files_of_the_run_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    png(folder / "samples/a.png")
    png(tmp_path / "out.png")
    (folder / "samples/link.png").symlink_to(tmp_path / "out.png")
    names = ["samples/a.png", "../out.png", str(tmp_path / "out.png"), "samples/link.png", "samples/none.png", ""]
    rows = [{**ROW, "images": names}, {"origin": "x", "images": "samples/a.png"}, "no row"]
    first, second = tracking.answers(event(EventKind.ANSWERS, rows=rows), folder)
    assert first.images == ((folder / "samples/a.png").resolve(),)
    assert (second.origin, second.answer, second.images) == ("x", "", ())
    assert tracking.answers(event(EventKind.ANSWERS, rows=None), folder) == []


def test_model_facts_have_the_share_that_is_trained() -> None:
    known = event(EventKind.MODEL, base="org/m", revision="", parameters={"total": 200, "trainable": 3})
    share = {"model/parameters": 200, "model/trainable": 3, "model/trainable_share": 0.015}
    assert tracking.model_facts(known) == {"model/base": "org/m", **share}
    assert tracking.model_facts(event(EventKind.MODEL, base="org/m")) == {"model/base": "org/m"}


def test_an_artifact_is_named_by_kind_and_file(tmp_path: Path) -> None:
    proof = {"verdict": "failed", "figures": {"kl": 0.5, "none": None}, "note": "too far"}
    told = event(EventKind.ARTIFACT, kind="gguf", path=str(tmp_path / "exports/q4.gguf"), proof=proof)
    name = "artifacts/gguf/q4.gguf"
    expected = {"path": "exports/q4.gguf", "verdict": "failed", "note": "too far", "kl": 0.5}
    assert tracking.artifact_facts(told, tmp_path) == {f"{name}/{key}": value for key, value in expected.items()}


@pytest.mark.parametrize("text", [None, "", "[]", "{"], ids=["none", "empty", "list", "torn"])
def test_the_machine_is_as_the_manifest_says(text: Any, tmp_path: Path) -> None:
    manifest = new_manifest("run", {}, [])
    manifest.write(tmp_path)
    found = tracking.machine(tmp_path)
    assert found["environment.chip"] == manifest.environment["chip"]
    assert found["environment.gpus"] == json.dumps(manifest.environment["gpus"])
    assert found["versions.ftcore"] == manifest.versions["ftcore"]
    (tmp_path / "manifest.json").unlink() if text is None else (tmp_path / "manifest.json").write_text(text, "utf-8")
    assert tracking.machine(tmp_path) == {}
