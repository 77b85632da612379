from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files_kit import GOOD, check, load
from ftcore.api import Problem, RunError
from ftcore_plugins.common import jsonl


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    return path


def test_rows_with_their_lines(file: Path) -> None:
    file.write_bytes(b'{"a": 1}\n\n  \r\n{"a": {"b": [1.5, null, true]}}\r\n{"a": "\xc3\xa9 \xe2\x80\xa8 x"}')
    assert [(dict(row.values), row.origin) for row in load(file)] == [
        ({"a": 1}, "rows.jsonl:1"),
        ({"a": {"b": [1.5, None, True]}}, "rows.jsonl:4"),
        ({"a": "\u00e9 \u2028 x"}, "rows.jsonl:5"),
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
    assert [dict(row.values) for row in load(path)] == rows
    assert check(path) == []


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD)
    assert dict(load(file)[0].values) == {"a": 1}


def test_offsets_count_the_byte_order_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfbroken\n")
    with pytest.raises(RunError, match=r"rows\.jsonl:1: broken JSON at byte 3: "):
        load(file)


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.JSONL", "c.txt", "._b.jsonl"):
        (tmp_path / name).write_text(json.dumps({"from": name}) + "\n")
    (tmp_path / "c.jsonl").write_text('{"from": 1}\n\n{"from": 2}\n')
    assert [row.origin for row in load(tmp_path)] == ["a.JSONL:1", "b.jsonl:1", "c.jsonl:1", "c.jsonl:3"]


def test_option_path_unset() -> None:
    [problem] = check(None)
    assert (problem.key, problem.message) == ("data.path", "no training data; name a .jsonl file or a folder of them")
    with pytest.raises(RunError, match=r"^data\.path: no training data"):
        load(None)


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
    (tmp_path / "rows.csv").write_text("a,b\n")
    (tmp_path / "no.jsonl").write_bytes(b"")
    for name, message in (
        ("empty", "holds no .jsonl file"),
        ("rows.csv", "is not a .jsonl file"),
        ("no.jsonl", "the file is empty"),
    ):
        [problem] = check(tmp_path / name)
        assert message in problem.message
        with pytest.raises(RunError, match=message):
            load(tmp_path / name)


@pytest.mark.parametrize("inside", [True, False])
def test_a_pipe_does_not_hang(tmp_path: Path, inside: bool) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    path = tmp_path if inside else tmp_path / "rows.jsonl"
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(file: Path) -> None:
    file.chmod(0)
    assert "cannot be read: Permission denied" in check(file)[0].message


def test_option_max_rows(file: Path) -> None:
    file.write_bytes(GOOD * 5 + b"broken\n")
    assert len(load(file, max_rows=5)) == 5
    assert len(load(file, max_rows=3)) == 3
    assert check(file, max_rows=5) == []
    with pytest.raises(RunError, match=r"rows\.jsonl:6"):
        load(file, max_rows=6)


def test_option_max_bad_rows(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file.write_bytes(GOOD + b"broken\n" + GOOD + b'{"a": "\xff"}\n' + GOOD)
    with pytest.raises(RunError, match=r"rows\.jsonl:2: broken JSON at byte 9: expecting value$"):
        load(file, folder)
    rows = load(file, folder, max_bad_rows=2)
    assert [row.origin for row in rows] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:5"]
    aside = [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]
    assert [(bad["file"], bad["line"], bad["raw"]) for bad in aside] == [
        (str(file), 2, "broken\n"),
        (str(file), 4, '{"a": "\\xff"}\n'),
    ]
    assert aside[0]["reason"] == "broken JSON at byte 9: expecting value"
    assert [entry.name for entry in folder.iterdir()] == ["bad_rows.jsonl"]
    with pytest.raises(RunError, match=r"rows\.jsonl:4: not UTF-8 .*broken row 2, over data.max_bad_rows \(1\)"):
        load(file, folder, max_bad_rows=1)
    assert check(file, max_bad_rows=2) == []
    assert [problem.line for problem in check(file, max_bad_rows=1)] == [2, 4]


def test_bad_rows_need_no_run_folder(file: Path) -> None:
    file.write_bytes(GOOD + b"broken\n")
    assert len(load(file, file.parent / "none", max_bad_rows=1)) == 1
    assert not (file.parent / "none").exists()


def test_no_rows_left(file: Path) -> None:
    file.write_bytes(b"broken\n")
    with pytest.raises(RunError, match="no rows are left, all 1 are broken"):
        load(file, max_bad_rows=1)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD * 2_000_000, id="many rows"),
        pytest.param(b"\n" * 30_000_000 + GOOD, id="blank lines"),
        pytest.param((b'{"a": "' + b"x" * 100_000 + b'"}\n') * 1500, id="long rows"),
        pytest.param(b'{"a": "' + b"x" * 30_000_000 + b'"}\n', id="one row"),
    ],
)
def test_check_reads_a_little_of_a_large_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    start = time.process_time()
    assert check(file) == []
    assert time.process_time() - start < 1


def test_reading_stops_after_so_many_bytes_or_lines(file: Path) -> None:
    file.write_bytes(b"\n" + GOOD * 9)
    numbers = [[line.number for line in jsonl.rows_of([file, file], *most)] for most in ((20,), (999, 3), (999, 12))]
    assert numbers == [[2, 3, 4], [2, 3], [*range(2, 11), 2]]


def test_check_reports_a_few_of_many_problems(file: Path) -> None:
    file.write_bytes(b"broken\n" * 100)
    assert [problem.line for problem in check(file)] == list(range(1, 11))
