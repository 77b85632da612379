from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files_kit import GOOD, check, load, source, values, write_jsonl
from ftcore.api import Problem, RunError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    return path


def test_rows_with_their_lines(file: Path) -> None:
    file.write_bytes(b'{"a": 1}\n\n  \r\n{"a": {"b": [1.5, null, true]}}\r\n{"a": "\xc3\xa9 \xe2\x80\xa8 x"}')
    assert [(dict(row.values), row.origin, row.folder) for row in load(file)] == [
        ({"a": 1}, "rows.jsonl:1", file.parent),
        ({"a": {"b": [1.5, None, True]}}, "rows.jsonl:4", file.parent),
        ({"a": "\u00e9 \u2028 x"}, "rows.jsonl:5", file.parent),
    ]
    assert check(file) == []


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none())), min_size=1),
    ascii_=st.booleans(),
)
def test_any_object_comes_back_as_it_was(tmp_path_factory: Any, rows: list[dict[str, Any]], ascii_: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=ascii_) + "\n" for row in rows), encoding="utf-8", newline="\n"
    )
    assert values(load(path)) == rows
    assert check(path) == []


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD)
    assert values(load(file)) == [{"a": 1}]
    assert check(file) == []


def test_offsets_count_the_byte_order_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfbroken\n")
    with pytest.raises(RunError, match=r"rows\.jsonl:1: broken JSON at byte 3: "):
        load(file)
    assert check(file)[0].message.startswith("broken JSON at byte 3: ")


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.JSONL", "c.txt", "._b.jsonl"):
        (tmp_path / name).write_text(json.dumps({"from": name}) + "\n")
    (tmp_path / "c.jsonl").write_text('{"from": 1}\n\n{"from": 2}\n')
    assert [row.origin for row in load(tmp_path)] == ["a.JSONL:1", "b.jsonl:1", "c.jsonl:1", "c.jsonl:3"]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.jsonl")
    file.write_bytes(GOOD)
    assert values(load(file)) == values(load(tmp_path)) == [{"a": 1}]


def test_a_list_of_paths_is_a_part_each(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "one" / "rows.jsonl", {"a": 1}, {"a": 2})
    second = write_jsonl(tmp_path / "two" / "rows.jsonl", {"a": 3})
    third = write_jsonl(tmp_path / "two" / "more" / "x.jsonl", {"a": 4})
    found = source([first, second, third.parent], weights=(1.0, 0.5, 3))
    assert [part.weight for part in found.parts] == [1.0, 0.5, 3]
    assert [[row.origin for row in part.rows] for part in found.parts] == [
        ["one/rows.jsonl:1", "one/rows.jsonl:2"],
        ["two/rows.jsonl:1"],
        ["x.jsonl:1"],
    ]
    assert found.parts[1].rows[0].folder == second.parent
    assert check([first, second, third.parent], weights=(1.0, 0.5, 3)) == []


def test_one_file_twice_is_two_parts(file: Path) -> None:
    assert [row.origin for row in load([file, file])] == ["rows.jsonl:1", "rows.jsonl:1"]


def test_option_validation_path(tmp_path: Path) -> None:
    train, held = write_jsonl(tmp_path / "a.jsonl", {"a": 1}), write_jsonl(tmp_path / "held" / "b.jsonl", {"a": 2})
    found = source(train, validation_path=held.parent)
    assert (values(found.parts[0].rows), values(found.validation)) == ([{"a": 1}], [{"a": 2}])
    assert not source(train).validation
    held.write_bytes(b"broken\n")
    assert check(train, validation_path=held)[0].file == held
    [problem] = check(train, validation_path=tmp_path / "none.jsonl")
    assert (problem.key, problem.message[:22]) == ("data.validation_path", "no such file or folder")
    [problem] = check(train, validation_path=train)
    assert (problem.key, problem.message) == (
        "data.validation_path",
        f"{train} is trained on, too; name other rows",
    )


def test_options_that_contradict_each_other(file: Path) -> None:
    for data, key, message in (
        ({"id": "a/b"}, "data.id", "both data.path and data.id are set; keep one"),
        ({"revision": "x"}, "data.revision", "a revision without data.id; set one or leave it out"),
        (
            {"weights": (1.0, 2.0)},
            "data.weights",
            "there are 2 weights for 1 of data.path; write one for each, in their order",
        ),
        ({"weights": (0.0,)}, "data.weights", "0.0 is no weight; write one above 0"),
        ({"weights": (float("nan"),)}, "data.weights", "nan is no weight; write one above 0"),
        (
            {"validation_path": file, "validation_split": "test"},
            "data.validation_path",
            "both it and data.validation_split are set; keep one",
        ),
    ):
        assert check(file, **data) == [Problem(message=message, key=key)]
        with pytest.raises(RunError) as caught:
            load(file, **data)
        assert str(caught.value) == f"{key}: {message}"
    assert len(check(file, id="a/b", weights=(-1.0,))) == 2


def test_option_path_unset() -> None:
    message = "no training data; name a file or a folder with the rows, or a data.id"
    for path in (None, []):
        assert check(path) == [Problem(message=message, key="data.path")]
        with pytest.raises(RunError, match=rf"^data\.path: {message}"):
            load(path)


def test_a_missing_file_says_where_it_was_looked_for(file: Path) -> None:
    missing = file.with_name("row.jsonl")
    message = f"no such file or folder: row.jsonl (looked in {file.parent}); did you mean rows.jsonl?"
    assert check(missing) == [Problem(message=message, key="data.path")]
    with pytest.raises(RunError) as caught:
        load(missing)
    assert str(caught.value) == f"data.path: {message}"
    [problem] = check(file.parent / "no" / "rows.jsonl")
    assert problem.message.endswith(f"(looked in {file.parent / 'no'}), which is not there either")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("x")
    (tmp_path / "rows.txt").write_text("a,b\n")
    (tmp_path / "rows.parquet.gz").write_bytes(b"x")
    (tmp_path / "no.jsonl").write_bytes(b"")
    for name, message in (
        ("empty", "holds no data file"),
        ("rows.txt", "is no data file that is known"),
        ("rows.parquet.gz", "is no data file that is known"),
        ("no.jsonl", "the file is empty"),
    ):
        [problem] = check(tmp_path / name)
        assert message in problem.message
        with pytest.raises(RunError, match=message):
            load(tmp_path / name)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv.gz"])
def test_a_pipe_does_not_hang(tmp_path: Path, inside: bool, name: str) -> None:
    os.mkfifo(tmp_path / name)
    path = tmp_path if inside else tmp_path / name
    [problem] = check(path)
    assert "is not a regular file" in problem.message
    with pytest.raises(RunError, match="is not a regular file"):
        load(path)


def test_a_device_and_a_folder_named_like_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to("/dev/zero")
    assert "is not a regular file" in check(tmp_path / "x.jsonl")[0].message
    (tmp_path / "x.jsonl").unlink()
    (tmp_path / "x.jsonl").mkdir()
    assert "is not a regular file" in check(tmp_path)[0].message


def test_links_of_a_folder_do_not_lead_out_of_it(tmp_path: Path) -> None:
    outside = write_jsonl(tmp_path / "outside.jsonl", {"a": 1})
    inside = write_jsonl(tmp_path / "data" / "x.jsonl", {"a": 1})
    (inside.parent / "y.jsonl").symlink_to(inside)
    assert len(load(inside.parent)) == 2
    (inside.parent / "z.jsonl").symlink_to(outside)
    [problem] = check(inside.parent)
    assert "is a link out of the folder" in problem.message
    with pytest.raises(RunError, match=r"data\.path: .*z\.jsonl is a link out of the folder"):
        load(inside.parent)
    assert values(load(inside.parent / "z.jsonl")) == [{"a": 1}], "named by itself, it is what the person wants"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(file: Path) -> None:
    file.chmod(0)
    assert "cannot be read: Permission denied" in check(file)[0].message
    with pytest.raises(RunError, match=r"cannot be read: Permission denied"):
        load(file)
