"""Data sets of the hub, through its real client and a hub on this machine."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from files_kit import check, load
from ftcore.api import RunError
from hub_kit import TOKEN, Hub, ask, ask_all, serving


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(**columns: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


README = b"---\nlicense: mit\n---\n"
DATA_SETS = {
    "ann/plain": {"README.md": README, "alpaca_data.json": json.dumps([{"a": 1}, {"a": 2}]).encode()},
    "ann/splits": {
        "README.md": README,
        "dataset_infos.json": b"{}",
        "data/train-00000-of-00002.parquet": parquet(a=[1]),
        "data/train-00001-of-00002.parquet": parquet(a=[2]),
        "data/test-00000-of-00001.parquet": parquet(a=[3]),
        "data/extra_sft-00000-of-00001.parquet": parquet(a=[4]),
    },
    "ann/subsets": {
        f"{subset}/{split}.jsonl": jsonl({"a": f"{subset} {split}"})
        for subset in ("main", "socratic")
        for split in ("train", "test")
    },
    "ann/empty": {"README.md": README},
    "canonical": {"train [1].jsonl": jsonl({"a": 1})},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving(DATA_SETS) as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.asked.clear()
    server.gated.clear()
    server.down = 0
    return server


def closed_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def test_a_data_set_and_again_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    rows = [[{"a": 1}, "alpaca_data.json:row 1"], [{"a": 2}, "alpaca_data.json:row 2"]]
    assert ask(hub.url, tmp_path, id="ann/plain")["rows"] == rows
    assert hub.downloads() == ["README.md", "alpaca_data.json"]
    hub.asked.clear()
    assert ask(hub.url, tmp_path, {"HF_HUB_OFFLINE": "1"}, id="ann/plain")["rows"] == rows
    assert hub.asked == []
    assert ask(closed_port(), tmp_path, id="ann/plain")["rows"] == rows
    hub.down = 503
    assert ask(hub.url, tmp_path, id="ann/plain")["rows"] == rows


def test_only_the_splits_that_are_asked_for_are_fetched(hub: Hub, tmp_path: Path) -> None:
    found = ask(hub.url, tmp_path, id="ann/splits")
    assert [row["a"] for row, _ in found["rows"]] == [1, 2]
    assert hub.downloads() == [
        "README.md",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    hub.asked.clear()
    others = [{"split": "extra_sft", "validation_split": "test"}, {"split": "dev"}]
    found, none = ask_all(hub.url, tmp_path, [{"id": "ann/splits", **other} for other in others])
    assert (found["rows"][0][0], found["validation"]) == ({"a": 4}, [{"a": 3}])
    assert hub.downloads()[1:] == ["data/extra_sft-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"]
    assert none["error"] == "data.split: ann/splits has no split 'dev'; it has train, extra_sft, test"


def test_a_split_that_is_not_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    ask(hub.url, tmp_path, id="ann/splits", split="test")
    found = ask(hub.url, tmp_path, {"HF_HUB_OFFLINE": "1"}, id="ann/splits", split="train")
    assert found["error"] == "data.split: ann/splits has no split 'train'; it has test"


def test_a_folder_and_a_file_of_a_data_set(hub: Hub, tmp_path: Path) -> None:
    found = ask(hub.url, tmp_path, id="ann/subsets")
    assert found["error"] == (
        "data.id: ann/subsets has its rows in several folders (main, socratic); name one, such as ann/subsets/main"
    )
    assert not any("/resolve/" in path for path in hub.asked)
    others = [{"id": "ann/subsets/socratic", "validation_split": "test"}, {"id": "ann/subsets/main/test.jsonl"}]
    found, file = ask_all(hub.url, tmp_path, others)
    assert found["rows"] == [[{"a": "socratic train"}, "train.jsonl:1"]]
    assert found["validation"] == [{"a": "socratic test"}]
    assert hub.downloads() == ["main/test.jsonl", "socratic/test.jsonl", "socratic/train.jsonl"]
    assert file["rows"] == [[{"a": "main test"}, "test.jsonl:1"]]


def test_a_name_without_an_owner_and_with_strange_files(hub: Hub, tmp_path: Path) -> None:
    assert ask(hub.url, tmp_path, id="canonical")["rows"] == [[{"a": 1}, "train [1].jsonl:1"]]


def test_a_gated_data_set(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("ann/plain")
    assert ask(hub.url, tmp_path, id="ann/plain")["error"] == (
        f"data.id: ann/plain is gated; accept its terms at {hub.url}/datasets/ann/plain and set HF_TOKEN"
    )
    found = ask(hub.url, tmp_path, {"HF_TOKEN": TOKEN}, id="ann/plain")
    assert len(found["rows"]) == 2
    assert TOKEN not in found["stderr"]


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    expected = (
        ({"id": "ann/none"}, "data.id: ann/none is not on the hub, or private; check the name, or set HF_TOKEN"),
        ({"id": "ann/plain", "revision": "v9"}, "data.id: ann/plain has no revision 'v9'; look at data.revision"),
        ({"id": "ann/empty"}, "data.id: ann/empty has no data file (.jsonl, "),
        ({"id": "ann/plain/nowhere"}, "data.id: ann/plain/nowhere has no data file (.jsonl, "),
    )
    answers = ask_all(hub.url, tmp_path, [data for data, _ in expected])
    for answer, (_, message) in zip(answers, expected, strict=True):
        assert answer["error"].startswith(message)


def test_no_way_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    command = "hf download --repo-type dataset ann/plain"
    missing = "data.id: ann/plain is not in the cache and"
    away = f"{missing} the hub is out of reach; run: {command}"
    assert ask(closed_port(), tmp_path, id="ann/plain")["error"] == away
    offline = ask(hub.url, tmp_path, {"HF_HUB_OFFLINE": "1"}, id="ann/plain")
    assert offline["error"] == f"{missing} HF_HUB_OFFLINE is set; run: {command}"
    assert hub.asked == []
    hub.down = 500
    assert ask(hub.url, tmp_path, id="ann/plain")["error"] == away


def test_option_id_is_checked_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for good in ("tatsu-lab/alpaca", "squad", "openai/gsm8k/main", "a/b/some file.jsonl", "a/b.c-d_e"):
        assert check(None, id=good) == []
    for bad in ("https://huggingface.co/datasets/a/b", "a b/c", "/a", "a/", "a/b/../c", "~/rows", ""):
        [problem] = check(None, id=bad)
        assert (problem.key, bad in problem.message) == ("data.id" if bad else "data.path", True)
        with pytest.raises(RunError, match=r"^data\.(id|path): "):
            load(None, id=bad)


def test_option_revision_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(None, id="a/b", revision="main", weights=(2.0,)) == []
    assert check(None, id="a/b", weights=(2.0, 1.0))[0].key == "data.weights"


def test_the_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.files import hub as module

    monkeypatch.setattr(module, "find_spec", lambda _: None)
    [problem] = check(None, id="a/b")
    assert problem.message == "huggingface_hub is not installed; run: pip install 'ftcore[train]'"
