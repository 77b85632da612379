"""What a run that goes on is held against: the base model and the settings that it began with."""

from __future__ import annotations

import os

from ftcore.resuming import changes_between, fingerprint_of
from ftcore.values import Loaded


def base(name: object, revision: str = "") -> Loaded:
    return Loaded(model=None, processor=None, base=str(name), revision=revision)


def test_a_folder_with_a_model_is_known_by_its_content(tmp_path):
    (tmp_path / "m" / "sub").mkdir(parents=True)
    weights = tmp_path / "m" / "weights"
    weights.write_text("1")
    (tmp_path / "m" / "sub" / "b").write_text("2")
    first = fingerprint_of(base(tmp_path / "m"))
    assert len(first) == 64
    os.utime(weights, (1, 1))
    notes = tmp_path / "m" / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "weights.metadata").write_text("downloaded again, at another time")
    assert fingerprint_of(base(tmp_path / "m")) == first, "times are no content, nor are a downloader's notes"
    weights.write_text("3")
    assert fingerprint_of(base(tmp_path / "m")) != first


def test_a_model_of_the_hub_is_known_by_its_commit():
    assert fingerprint_of(base("org/model-of-the-hub", "5f3a")) == "5f3a"
    assert fingerprint_of(base("")) == "", "a model from nowhere has nothing to do with the working folder"


def test_each_key_that_differs_is_named_with_both_values():
    before = {"train": {"seed": 1, "steps": 5, "gone": True}, "plugin": {"lora": {"r": 8}}}
    after = {"train": {"seed": 2, "steps": 5}, "plugin": {"lora": {"r": 8}, "merge": {}}}
    assert changes_between(before, after) == [
        "plugin.merge: off -> on",
        "train.gone: True -> unset",
        "train.seed: 1 -> 2",
    ]
    assert changes_between(after, after) == []
