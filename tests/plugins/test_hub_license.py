"""The licence of a base model, from its card: in its folder, in the client's cache, or on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcore_plugins.common.hub import license_of
from ftcore_plugins.huggingface import HuggingFace
from push_kit import TOKEN, PushHub, listening
from tiny_kit import Tiny, make_run


@pytest.fixture(scope="module")
def hub() -> Iterator[PushHub]:
    with listening() as server:
        yield server


@pytest.fixture(autouse=True)
def here(hub: PushHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.reset()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: gemma\n---\n# x", "gemma"),
        ("---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\n", "qwen-research"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit"),
        ("---\nlicense: {a: b}\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\n- a\n---\n", ""),
        ("---\nlanguage: en\n---\n", ""),
        ("# no front matter", ""),
        ("\udcff", ""),
        ("---\nx: " + "[" * 1000 + "\n---\n", ""),
    ],
)
def test_the_card_of_a_folder(tmp_path: Path, card: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(card, "utf-8", errors="surrogateescape")
    assert license_of(str(tmp_path), "") == expected


def test_a_folder_without_a_card(tmp_path: Path) -> None:
    assert license_of(str(tmp_path), "") == ""


def test_a_card_in_the_cache(tmp_path: Path, hub: PushHub) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "cache/models--org--m/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    assert license_of("org/m", commit) == "mit"
    assert hub.asked == []


def test_a_card_on_the_hub(hub: PushHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cards["org/m"] = {"license": "apache-2.0"}
    assert license_of("org/m", "") == "apache-2.0"
    assert license_of("org/none", "") == ""
    hub.fail("info", 500, times=9)
    assert license_of("org/m", "") == ""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.asked.clear()
    assert license_of("org/m", "") == ""
    assert hub.asked == []


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert license_of("org/m", "") == ""


def test_the_loader_tells_it(tiny: Tiny, tmp_path: Path) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny.base, base)
    (base / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    run = make_run(tmp_path / "run", model={"id": str(base)})
    loaded = HuggingFace().load_model(run, tiny.tokenizer, None)
    assert loaded.license == "llama3.2"
