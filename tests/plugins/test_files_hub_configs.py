"""What the README of a data set on the hub declares, and images that its rows name, through the real client."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from files_kit import load
from ftcore_plugins.common.images import ImageError, Limits, open_image
from ftcore_plugins.files.card import configurations
from ftcore_plugins.files.faults import DataFault
from hub_kit import Hub, ask, ask_all, serving


def rows(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def readme(configs: str) -> bytes:
    return f"---\nlicense: mit\nconfigs:\n{configs}---\n# Data\n".encode()


SUBSETS = readme("""
- config_name: easy
  data_files:
  - split: train
    path: sums/easy-*.jsonl
  - split: dev
    path: [sums/held.jsonl, sums/more/*.jsonl]
- config_name: hard
  data_dir: hard
""")
ONE = readme("""
- config_name: en
  default: true
  data_files: "**/*_en.jsonl"
- config_name: de
  data_files: {train: a/x_de.jsonl, validation: a/y_de.jsonl, dev: a/z_de.jsonl}
""")
IMAGES = {f"images/{number}.png": png(colour) for number, colour in enumerate(("red", "green", "blue", "black"))}
DATA_SETS: Mapping[str, Mapping[str, bytes]] = {
    "ann/subsets": {
        "README.md": SUBSETS,
        "sums/easy-1.jsonl": rows(a=1),
        "sums/easy-2.jsonl": rows(a=2),
        "sums/easy-3.txt": b"no rows",
        "sums/held.jsonl": rows(a=3),
        "sums/more/x.jsonl": rows(a=4),
        "hard/train.jsonl": rows(a=5),
        "hard/test.jsonl": rows(a=6),
    },
    "ann/tongues": {
        "README.md": ONE,
        "a/x_en.jsonl": rows(a="x"),
        "a/b/y_en.jsonl": rows(a="y"),
        "a/x_de.jsonl": rows(a="xd"),
        "a/y_de.jsonl": rows(a="yd"),
        "a/z_de.jsonl": rows(a="zd"),
    },
    "ann/grids": {
        "README.md": b"no front matter",
        "train.jsonl": rows(frames=["images/0.png", "images/1.png"]) + b"broken\n" + rows(image="./images/1.png"),
        "test.jsonl": rows(image="images/2.png"),
        "loose.txt": b"x",
        **IMAGES,
    },
    "ann/folder": {
        "train/metadata.jsonl": rows(file_name="0001.png", text="../../x.png") + rows(file_name="/etc/0002.png"),
        "train/0001.png": png("red"),
        "train/0002.png": png("red"),
        "test/metadata.jsonl": rows(file_name="0001.png"),
        "test/0001.png": png("blue"),
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving(DATA_SETS) as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.asked.clear()
    return server


def columns(answer: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    return [row["a"] for row, _ in answer["rows"]], [row["a"] for row in answer["validation"]]


def test_the_splits_of_a_configuration(hub: Hub, tmp_path: Path) -> None:
    assert columns(ask(hub.url, tmp_path, id="ann/subsets/easy", validation_split="dev")) == ([1, 2], [3, 4])
    wanted = ["README.md", "sums/easy-1.jsonl", "sums/easy-2.jsonl", "sums/held.jsonl", "sums/more/x.jsonl"]
    assert hub.downloads() == wanted
    held, hard, none, several, short = ask_all(
        hub.url,
        tmp_path,
        [
            {"id": "ann/subsets/easy", "split": "validation"},
            {"id": "ann/subsets/hard", "validation_split": "test"},
            {"id": "ann/subsets/none"},
            {"id": "ann/subsets"},
            {"id": "ann/subsets/easy", "split": "test"},
        ],
    )
    assert (columns(held), columns(hard)) == (([3, 4], []), ([5], [6]))
    assert none["error"] == (
        "data.id: ann/subsets/none is no folder with rows, nor a configuration of ann/subsets; it has easy, hard"
    )
    assert several["error"] == (
        "data.id: ann/subsets has several configurations (easy, hard); name one, such as ann/subsets/easy"
    )
    assert short["error"] == "data.split: ann/subsets/easy has no split 'test'; it has train, validation"
    away = ask("http://127.0.0.1:1", tmp_path, id="ann/subsets/hard", validation_split="test")
    assert columns(away) == ([5], [6])


def test_the_default_configuration_and_a_folder_beside_it(hub: Hub, tmp_path: Path) -> None:
    others = [{}, {"split": "dev"}, {"split": "validation"}, {}]
    names = ("ann/tongues", "ann/tongues/de", "ann/tongues/de", "ann/tongues/a/b")
    answers = ask_all(hub.url, tmp_path, [{"id": name, **other} for name, other in zip(names, others, strict=True)])
    assert [columns(answer)[0] for answer in answers] == [["y", "x"], ["zd"], ["yd"], ["y"]]


def images(hub: Hub) -> list[str]:
    return [name for name in hub.downloads() if name.endswith(".png")]


def test_only_images_that_rows_name_are_fetched(hub: Hub, tmp_path: Path) -> None:
    ask(hub.url, tmp_path, id="ann/grids", max_bad_rows=1)
    assert images(hub) == ["images/0.png", "images/1.png"]
    hub.asked.clear()
    others: list[dict[str, Any]] = [{"id": "ann/grids", "split": "test"}, {"id": "ann/folder"}]
    ask_all(hub.url, tmp_path, [*others, *others])
    assert images(hub) == ["images/2.png", "train/0001.png"]
    assert sum(path.endswith(".png") for path in hub.asked) <= 4, "each is asked for once, and fetched once"


def test_fetched_images_open_and_nothing_else_does(hub: Hub, tmp_path: Path) -> None:
    ask(hub.url, tmp_path, id="ann/folder")
    [file] = tmp_path.glob("hub/*/snapshots/*/train/0001.png")
    assert file.is_symlink()
    limits = Limits(file_bytes=10_000, pixels=10_000)
    assert open_image(file.parent, "0001.png", limits).getpixel((0, 0)) == (255, 0, 0)
    (file.parent / "out.png").symlink_to("/etc/hostname")
    (tmp_path / "other.png").write_bytes(png("red"))
    (file.parent / "other.png").symlink_to(tmp_path / "other.png")
    for name in ("out.png", "other.png"):
        with pytest.raises(ImageError, match="lies outside of"):
            open_image(file.parent, name, limits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("configs: 3", "has configs that are no list of objects"),
        ("configs: [a]", "has configs that are no list of objects"),
        ("configs: [{data_files: 3}]", "has data_files of default that are not understood"),
        ("configs: [{data_files: [{split: [], path: x}]}]", "has data_files of default that are not understood"),
        ("configs: [{data_dir: 3}]", "has a data_dir of default that is no text"),
        ("configs: [{data_files: ../../x.jsonl}]", "names '../../x.jsonl', which is no file of the data set"),
        ("configs: [{data_files: 'https://x.org/x.jsonl'}]", "names 'https://x.org/x.jsonl', which is no file"),
        ("configs: [", "cannot be read: "),
        ("- a", "cannot be read: "),
    ],
)
def test_a_readme_that_is_not_understood(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"---\n{text}\n---\n")
    with pytest.raises(DataFault) as caught:
        configurations(file)
    assert str(caught.value).startswith(f"data.id: the data set's README.md {message}")


def test_readmes_that_declare_nothing(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    for text in ("", "# Data\n", "---\n---\n", "---\nlicense: mit\n---\n", "---\nconfigs:\n---\n"):
        file.write_text(text)
        assert configurations(file) == []


def test_a_file_in_two_splits_is_told(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_bytes(readme("- config_name: x\n  data_files: {train: '*.jsonl', test: 'b*'}\n"))
    [one] = configurations(file)
    assert one.splits(["a.jsonl", "c.jsonl"]) == {"a.jsonl": "train", "c.jsonl": "train"}
    with pytest.raises(DataFault, match=r"b.jsonl is in the splits train and test"):
        one.splits(["a.jsonl", "b.jsonl"])


def test_the_readme_of_a_local_folder_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(ONE)
    (tmp_path / "train.jsonl").write_bytes(rows(a=1))
    assert [row.values for row in load(tmp_path)] == [{"a": 1}]
