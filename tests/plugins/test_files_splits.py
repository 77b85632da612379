"""The names of a folder's files tell which of them hold rows, and which split each belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from files_kit import check, load, source, values, write_jsonl, write_parquet
from ftcore.api import RunError
from ftcore_plugins.files.names import data_names, split_of

SPLITS = {
    "train.jsonl": "train",
    "rows_train.csv": "train",
    "training-1.json.gz": "train",
    "Test.parquet": "test",
    "my.eval.jsonl": "test",
    "val.jsonl": "validation",
    "dev_2.csv": "validation",
    "train-00000-of-00002.parquet": "train",
    "train-00000-of-00002-9c5f.parquet": "train",
    "test_sft-00001-of-00003.parquet": "test_sft",
    "dev-00000-of-00001.jsonl.gz": "validation",
    "data/validation-00000-of-00001.parquet": "validation",
    "train/0000.parquet": "train",
    "test/shards/a.jsonl": "test",
    "rows.jsonl": "",
    "trained.jsonl": "",
    "contest.csv": "",
    "latest/rows.jsonl": "",
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_split_that_a_name_tells(name: str) -> None:
    assert split_of(name) == SPLITS[name]


def test_files_of_a_folder_that_hold_rows() -> None:
    names = ["b.jsonl", "a.csv", "README.md", ".x.jsonl", "sub/c.jsonl", "config.json", "dataset_infos.json"]
    assert data_names(names) == ["a.csv", "b.jsonl"]
    assert data_names(["sub/c.jsonl", "sub/.git/d.jsonl", "x.txt"]) == ["sub/c.jsonl"]
    assert data_names(["a.json", "dataset_infos.json"]) == ["a.json"]
    assert data_names(["images/1.png"]) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "test", "validation")):
        write_jsonl(tmp_path / f"{split}.jsonl", {"n": number})
    return tmp_path


def test_option_split(folder: Path) -> None:
    assert values(load(folder)) == [{"n": 0}]
    assert values(load(folder, split="test")) == [{"n": 1}]
    assert values(load(folder, split="val")) == [{"n": 2}]
    assert check(folder, split="test") == []
    [problem] = check(folder, split="other")
    message = f"{folder} has no split 'other'; it has train, test, validation"
    assert (problem.key, problem.message) == ("data.split", message)
    with pytest.raises(RunError) as caught:
        load(folder, split="other")
    assert str(caught.value) == f"data.split: {message}"


def test_option_validation_split(folder: Path) -> None:
    found = source(folder, validation_split="test")
    assert (values(found.parts[0].rows), values(found.validation)) == ([{"n": 0}], [{"n": 1}])
    found = source(folder, split="test", validation_split="dev")
    assert (values(found.parts[0].rows), values(found.validation)) == ([{"n": 1}], [{"n": 2}])
    [problem] = check(folder, validation_split="x")
    assert (problem.key, problem.message) == (
        "data.validation_split",
        f"{folder} has no split 'x'; it has train, test, validation",
    )
    [problem] = check(folder, validation_split="train")
    assert (problem.key, "is trained on, too" in problem.message) == ("data.validation_split", True)


def test_shards_in_a_data_folder(tmp_path: Path) -> None:
    for number in range(2):
        write_parquet(tmp_path / "data" / f"train-{number:05}-of-00002.parquet", n=[number])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", n=[9])
    rows = load(tmp_path)
    assert [(row.values["n"], row.origin, row.folder) for row in rows] == [
        (0, "data/train-00000-of-00002.parquet:row 1", tmp_path / "data"),
        (1, "data/train-00001-of-00002.parquet:row 1", tmp_path / "data"),
    ]
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    [problem] = check(tmp_path)
    assert problem.message == f"{tmp_path} has 1 of the 2 files of data/train; get the others, too"
    assert values(load(tmp_path, split="test")) == [{"n": 9}]


def test_splits_in_subfolders(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train" / "a.jsonl", {"n": 0})
    write_jsonl(tmp_path / "test" / "a.jsonl", {"n": 1})
    found = source(tmp_path, validation_split="test")
    assert [row.origin for row in (*found.parts[0].rows, *found.validation)] == ["train/a.jsonl:1", "test/a.jsonl:1"]


def test_one_split_is_the_whole_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test_1.jsonl", {"n": 0})
    write_jsonl(tmp_path / "test_2.jsonl", {"n": 1})
    assert len(load(tmp_path)) == 2
    (tmp_path / "test_1.jsonl").rename(tmp_path / "train.jsonl")
    (tmp_path / "test_2.jsonl").rename(tmp_path / "more.jsonl")
    assert len(load(tmp_path)) == 2, "a file of no split is trained on, too, when train is the only split"


def test_files_of_no_split_beside_others(folder: Path) -> None:
    write_jsonl(folder / "more.jsonl", {"n": 3})
    [problem] = check(folder)
    assert (problem.key, problem.message) == (
        "data.split",
        f"{folder} has the splits train, test, validation, and more.jsonl is in none of them; name a split",
    )
    assert values(load(folder, split="train")) == [{"n": 0}]


def test_no_train_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", {"n": 0})
    write_jsonl(tmp_path / "val.jsonl", {"n": 1})
    with pytest.raises(RunError, match=r"^data\.split: .* has no split 'train'; it has test, validation$"):
        load(tmp_path)


def test_a_split_of_what_has_none(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", {"n": 0})
    for options, key in (({"split": "train"}, "data.split"), ({"validation_split": "test"}, "data.validation_split")):
        [problem] = check(file, **options)
        assert problem.key == key
        assert problem.message.endswith("; none of its files names one")


def test_several_paths_with_splits(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for number, split in enumerate(("train", "test"), start=10):
        write_jsonl(other / f"{split}.jsonl", {"n": number})
    alone = write_jsonl(tmp_path_factory.mktemp("alone") / "rows.jsonl", {"n": 20})
    found = source([folder, other, alone], validation_split="test")
    assert [values(part.rows) for part in found.parts] == [[{"n": 0}], [{"n": 10}], [{"n": 20}]]
    assert values(found.validation) == [{"n": 1}, {"n": 11}]
    assert values(source([folder, other], validation_split="validation").validation) == [{"n": 2}]


def test_a_folder_of_held_out_rows_with_splits(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    train = write_jsonl(tmp_path_factory.mktemp("train") / "rows.jsonl", {"n": 20})
    assert values(source(train, validation_path=folder).validation) == [{"n": 2}]
    (folder / "validation.jsonl").unlink()
    [problem] = check(train, validation_path=folder)
    assert (problem.key, problem.message) == (
        "data.validation_path",
        f"{folder} has no split 'validation'; it has train, test",
    )


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"_data_files": 1}', '{"_data_files": [{"filename": "../x.arrow"}]}', '{"_data_files": [{}]}'],
)
def test_a_saved_set_that_is_torn(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    [problem] = check(tmp_path)
    assert problem.file == tmp_path / "state.json"
    assert problem.message.endswith("save it anew")


def test_images_beside_the_rows_are_not_walked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.files import places

    write_jsonl(tmp_path / "rows.jsonl", {"n": 0})
    write_jsonl(tmp_path / "images" / "labels.jsonl", {"n": 1})

    def walk(_: Path) -> None:
        raise AssertionError("walked")

    monkeypatch.setattr(places, "_below", walk)
    assert values(load(tmp_path)) == [{"n": 0}]
