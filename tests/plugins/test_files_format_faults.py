"""What is wrong with a file of each format is said in one sentence, with the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from files_kit import check, load, packed, source, values, write_arrow, write_parquet
from ftcore.api import RowError, RunError
from ftcore_plugins.files import csv_rows, json_rows

# Name of the file: its content, the line that is named, and a part of what is said.
WHOLE: dict[str, tuple[str, bytes, int, str]] = {
    "csv twin columns": ("x.csv", b"a,b,a\n1,2,3\n", 1, "the column 'a' is there twice; rename one"),
    "csv without rows": ("x.csv", b"a,b\n\n", 0, "the file has no rows"),
    "csv blank": ("x.csv", b"\n\n", 0, "begins with no header"),
    "csv empty header": ("x.csv", b",,\n1,2,3\n", 0, "begins with no header"),
    "csv open quote": ("x.csv", b'a,b\n1,2\n"3,4\n5,6\n', 3, "a quote that opens in this row is never closed"),
    "csv broken header": ("x.csv", b'"a"b,c\n1,2\n', 1, "broken CSV: ',' expected after"),
    "csv semicolons": ("x.csv", b"a;b\n1;2\n", 1, "the header names one column, 'a;b'; put a comma between columns"),
    "tsv commas": ("x.tsv", b"a;b\n1;2\n", 1, "put a tab between columns"),
    "csv latin header": ("x.csv", "\u00e9,b\n1,2\n".encode("latin-1"), 1, "the header is not UTF-8"),
    "csv utf-16 without a mark": ("x.csv", "a,b\n1,2\n".encode("utf-16-le"), 1, "the header is not UTF-8"),
    "json text": ("x.json", b'"rows"', 1, "the file holds a text; write a list of objects"),
    "json number": ("x.json", b"12", 1, "the file holds a number"),
    "json blank": ("x.json", b" \n ", 0, "the file is blank"),
    "json no list": ("x.json", b'{"a": {"b": [1]}}', 1, "one object without a list of rows"),
    "json columns": ("x.json", b'{"a": [{}], "b": [2]}', 1, "more than one list, a and b"),
    "json no rows": ("x.json", b"[]", 0, "the file has no rows"),
    "json more": ("x.json", b'[{"a": 1}]\n[{"a": 2}]', 2, "more follows"),
    "json comma": ("x.json", b'[\n{"a": 1}\n{"a": 2}]', 3, "broken JSON at character 12: expecting ','"),
    "json last comma": ("x.json", b'[{"a": 1},]', 1, "broken JSON at character 11: expecting value"),
    "json cut off": ("x.json", b'[{"a": 1},\n{"a": "tex', 2, "may be cut off"),
    "json cut off between": ("x.json", b'[{"a": 1},\n', 2, "expecting value; the file ends here and may be cut off"),
    "json syntax": ("x.json", b'[{"a": 1},\n\n{"a": nope}]', 3, "broken JSON at character 19: expecting value"),
    "json colon": ("x.json", b'{"data" [{"a": 1}]}', 1, "expecting ':'"),
    "json braces in a key": ("x.json", b'{"{0}": [{"a": 1}], "{x}": []}', 1, "more than one list, {0} and {x}"),
    "json deep": ("x.json", b"[" * 100_000, 1, "nested too deeply"),
    "json latin": ("x.json", b'[{"a": "\xe9"}]', 0, "not UTF-8 (0xe9)"),
    "parquet text": ("x.parquet", b"PAR1 and then no more of it", 0, "the file is damaged or no Parquet"),
    "parquet short": ("x.parquet", b"x", 0, "the file is damaged or no Parquet"),
    "arrow text": ("x.arrow", b'{"a": 1}\n', 0, "the file is damaged or no Arrow"),
    "feather 1": ("x.feather", b"FEA1....FEA1", 0, "is Feather version 1"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_holds_no_rows(tmp_path: Path, name: str) -> None:
    called, content, line, message = WHOLE[name]
    file = tmp_path / called
    file.write_bytes(content)
    with pytest.raises(RunError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    [problem] = check(file)
    assert (problem.key, problem.file, problem.line or 0) == ("data.path", file, line)
    assert message in problem.message


# Name of the file: its content, the place that is named, the reason, and what is shown of the row.
ROWS: dict[str, tuple[str, bytes, str, str, str]] = {
    "csv too few": (
        "x.csv",
        b"a,b\n1,2\n\n3\n4,5\n",
        "4",
        "cells in the row: 1, in the header: 2; write as many",
        "3\n",
    ),
    "csv too many": (
        "x.csv",
        b'a,b\n1,2\n3,"4\n",5\n6,7\n',
        "3",
        "cells in the row: 3, in the header: 2",
        '3,"4\n",5\n',
    ),
    "csv quotes": ("x.csv", b'a,b\n1,2\n"3"x,4\n6,7\n', "3", "broken CSV: ',' expected after '\"'", '"3"x,4\n'),
    "csv latin": ("x.csv", b"a,b\n1,2\n\xe9,3\n4,5\n", "3", "the row is not UTF-8", "\\xe9,3\n"),
    "csv nul": ("x.csv", b"a,b\n1,2\n\0,3\n4,5\n", "3", "the row has NUL bytes", "\0,3\n"),
    "json list": ("x.json", b'[{"a": 1}, [2], {"a": 3}]', "row 2", "the row is a list, not an object", "[2]"),
    "json null": ("x.json", b'[{"a": 1}, null, {"a": 3}]', "row 2", "the row is null, not an object", "null"),
    "json twins": (
        "x.json",
        b'[{"a": 1}, {"b": {"a": 1, "a": 2}}, {"a": 3}]',
        "row 2",
        "the key 'a' is there twice in one object",
        '{"b": {"a": 1, "a": 2}}',
    ),
    "json nan": ("x.json", b'[{"a": 1}, {"a": NaN}, {"a": 3}]', "row 2", "NaN is not JSON", '{"a": NaN}'),
    "json overflow": ("x.json", b'[{"a": 1}, {"a": 1e999}, {"a": 3}]', "row 2", "the number 1e999", '{"a": 1e999}'),
    "json digits": (
        "x.json",
        b'[{"a": 1}, {"a": ' + b"9" * 5000 + b'}, {"a": 3}]',
        "row 2",
        "a number has too many digits",
        '{"a": ' + "9" * 5000 + "}",
    ),
    "json half": (
        "x.json",
        rb'[{"a": 1}, {"a": "\ud83d"}, {"a": 3}]',
        "row 2",
        "half of a character",
        r'{"a": "\ud83d"}',
    ),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_broken_row_among_sound_ones(tmp_path: Path, name: str, packing: str) -> None:
    called, content, place, reason, raw = ROWS[name]
    file = tmp_path / f"{called}{packing}"
    file.write_bytes(packed(packing, content) if packing else content)
    rows = source(file).parts[0].rows
    assert len(rows) == 3
    with pytest.raises(RowError) as caught:
        rows[1]
    assert caught.value.origin == f"{called}{packing}:{place}"
    assert reason in caught.value.reason
    assert caught.value.raw == raw
    assert {**rows[0].values, **rows[2].values}
    [problem] = check(file)
    assert reason in problem.message
    assert check(file, max_bad_rows=1) == []


def test_columns_that_json_cannot_hold(tmp_path: Path) -> None:
    import pyarrow as pa

    for column, reason in (
        (pa.array([None, b"PNG"]), "column 'x' holds bytes, which are no text; write them into files and name these"),
        (pa.array([{"bytes": None}, {"bytes": b"PNG"}]), "column 'x' holds bytes"),
        (pa.array([1.0, float("inf")]), "column 'x' holds an infinite number"),
        (pa.array([1, 2], pa.duration("s")), "column 'x' holds a timedelta"),
    ):
        file = write_parquet(tmp_path / "x.parquet", a=["y", "z"], x=column)
        rows = source(file).parts[0].rows
        with pytest.raises(RowError) as caught:
            rows[1]
        assert caught.value.origin == "x.parquet:row 2"
        assert caught.value.reason.startswith(reason)
        assert json.loads(caught.value.raw)["a"] == "'z'"


def test_a_value_of_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    import pyarrow as pa

    torn = pa.Array.from_buffers(pa.string(), 3, [None, *pa.array([b"a", b"\xff", b"c"]).buffers()[1:]])
    rows = source(write_arrow(tmp_path / "x.arrow", stream=False, a=torn)).parts[0].rows
    assert values([rows[0], rows[2]]) == [{"a": "a"}, {"a": "c"}]
    with pytest.raises(RowError, match=r"x\.arrow:row 2: a text is not UTF-8"):
        rows[1]
    twins = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    with pytest.raises(RowError, match=r"y\.parquet:row 1: a map has a key twice"):
        load(write_parquet(tmp_path / "y.parquet", a=twins))


def test_twin_columns_of_a_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(RunError, match=r"x\.parquet: the column 'a' is there twice"):
        load(tmp_path / "x.parquet")


def test_a_line_of_csv_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_LINE", 1000)
    for content, message in (
        ("a\n1\n" + "x" * 2000 + "\n", r"x\.csv:3: the line is over"),
        ('a\n1\n"' + "x\n" * 2000, r"x\.csv:3: a quote that opens in this row is never closed"),
    ):
        (tmp_path / "x.csv").write_text(content)
        with pytest.raises(RunError, match=message):
            load(tmp_path / "x.csv")


def test_an_item_of_a_document_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE", 10_000)
    monkeypatch.setattr(json_rows, "CHUNK", 1000)
    (tmp_path / "x.json").write_text('[{"a": 1},\n{"a": "' + "x" * 50_000 + '"}]')
    with pytest.raises(RunError, match=r"x\.json:2: broken JSON at character 18: unterminated string"):
        load(tmp_path / "x.json")


def test_what_is_shown_of_a_row_is_not_long(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    file.write_bytes(gzip.compress(b"a,b\n" + b"x" * 300_000 + b"\n"))
    with pytest.raises(RowError) as caught:
        load(file)
    assert len(caught.value.raw) == 10_000


def test_a_full_disk_is_not_the_fault_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from ftcore_plugins.files import spool

    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "encoded", full)
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(RunError, match=r"^no room for prepared rows in .*; set run\.cache_dir"):
        load(tmp_path / "x.csv", tmp_path / "cache")
