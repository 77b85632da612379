"""Rows are read when they are asked for, from any process and thread, and known by the bytes they are made from."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from files_kit import GOOD, load, pack, source, values, write_jsonl
from ftcore.api import RowError, RunError
from ftcore_plugins.files import rows as rows_module
from ftcore_plugins.files.lines import scan
from ftcore_plugins.files.rows import FileRows

LAYOUTS = [
    b'{"n": 0}\n{"n": 1}\n{"n": 2}\n',
    b'\n\n{"n": 0}\n{"n": 1}\n   \n\t\n{"n": 2}\n\n\n\n{"n": 3}',
    b'\xef\xbb\xbf\n{"n": 0}\r\n\r\n{"n": 1}\r\n',
    b'\xef\xbb\xbf{"n": 0}\n{"n": 1}\n\n',
    b'{"n": 0}' + b"\n" * 1_200_000 + b'{"n": 1}\n' + b"\n" * 1_200_000 + b'{"n": 2}\n',
]


@pytest.mark.parametrize("content", LAYOUTS, ids=range(len(LAYOUTS)))
def test_blank_lines_are_neither_read_nor_lost(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    expected = [number for number, line in enumerate(content.split(b"\n"), 1) if b"{" in line]
    assert [row.origin for row in load(file)] == [f"x.jsonl:{number}" for number in expected]
    assert [row["n"] for row in values(load(file))] == list(range(len(expected)))
    lines, _ = scan(file)
    assert all(end - start <= 10 for start, end in map(lines.span, range(len(lines))))


def test_rows_by_index(tmp_path: Path) -> None:
    for number in range(3):
        write_jsonl(tmp_path / f"{number}.jsonl", {"n": 2 * number}, {"n": 2 * number + 1})
    [part] = source(tmp_path).parts
    assert len(part.rows) == 6
    assert [part.rows[index].values["n"] for index in (5, 0, -1, -6, 3)] == [5, 0, 5, 0, 3]
    assert values(part.rows[1:5:2]) == [{"n": 1}, {"n": 3}]
    for index in (6, -7):
        with pytest.raises(IndexError):
            part.rows[index]
    assert part.rows[0] == part.rows[0]
    assert not FileRows([])


def test_rows_pickle_without_what_is_open(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(GOOD + b"\nbroken\n")
    [part] = source(file).parts
    assert values([part.rows[0]]) == [{"a": 1}]
    again = pickle.loads(pickle.dumps(part.rows))
    assert again[0] == part.rows[0]
    with pytest.raises(RowError, match=r"x\.jsonl:3: broken JSON at byte 10"):
        again[1]


def test_a_worker_of_its_own_reads_the_rows(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", *({"n": number} for number in range(100)))
    [part] = source(file).parts
    assert part.rows[0].values == {"n": 0}
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(part.rows.__getitem__, [99, 5]) == [part.rows[99], part.rows[5]]


def test_threads_share_the_rows(tmp_path: Path) -> None:
    for number in range(rows_module.OPEN_FILES + 40):
        write_jsonl(tmp_path / f"{number:04}.jsonl", {"n": number})
    [part] = source(tmp_path).parts
    order = [(step * 37) % len(part.rows) for step in range(4000)]
    with ThreadPoolExecutor(4) as pool:
        assert [row.values["n"] for row in pool.map(part.rows.__getitem__, order)] == order


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_only_so_many_files_are_open(tmp_path: Path) -> None:
    for number in range(rows_module.OPEN_FILES * 3):
        write_jsonl(tmp_path / f"{number:04}.jsonl", {"n": number})
    [part] = source(tmp_path).parts
    before = open_files()
    assert [row.values["n"] for row in part.rows] == list(range(rows_module.OPEN_FILES * 3))
    assert open_files() - before <= rows_module.OPEN_FILES
    del part
    gc.collect()
    assert open_files() <= before


def test_a_row_costs_its_offset_only(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"text": "' + b"x" * 100 + b'"}\n')
    source(file)
    file.write_bytes(file.read_bytes() * 100_000)
    gc.collect()
    tracemalloc.start()
    try:
        [part] = source(file).parts
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        for index in range(0, 100_000, 50):
            part.rows[index]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(part.rows) == 100_000
    assert held < 100_000 * 10 + 50_000, "eight bytes a row, and what an array allocates ahead"
    assert after - held < 50_000, "rows that were read are not kept"
    assert len(pickle.dumps(part.rows)) < 100_000 * 8 + 5_000


def test_a_file_that_changes_after_it_was_indexed(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(GOOD * 3)
    [part] = source(file).parts
    copy = pickle.loads(pickle.dumps(part.rows))
    assert len(list(part.rows)) == 3
    file.write_bytes(GOOD)
    for rows in (part.rows, copy):
        with pytest.raises(RunError, match=r"x\.jsonl: the file changed since it was indexed; start again") as caught:
            rows[2]
        assert not isinstance(caught.value, RowError), "it is no row that could be set aside"
    file.unlink()
    with pytest.raises(RunError, match=r"x\.jsonl: cannot be read any more: No such file"):
        pickle.loads(pickle.dumps(part.rows))[0]


def test_a_rewrite_of_the_same_size_is_noticed_by_a_new_process(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(GOOD)
    copy = pickle.loads(pickle.dumps(source(file).parts[0].rows))
    file.write_bytes(GOOD.replace(b"1", b"2"))
    os.utime(file, ns=(0, 0))
    with pytest.raises(RunError, match="the file changed since it was indexed"):
        copy[0]


def test_the_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_bytes(GOOD)
    second.write_bytes(GOOD * 2)
    alone = source(first).fingerprint
    os.utime(first, ns=(1, 1))
    assert source(first).fingerprint == alone
    assert len(alone) == 64
    others = {
        "another order": source([second, first]).fingerprint,
        "both": source([first, second]).fingerprint,
        "weights": source([first, second], weights=(1.0, 2.0)).fingerprint,
        "held out": source(first, validation_path=second).fingerprint,
        "one folder": source(tmp_path).fingerprint,
    }
    stamp = first.stat()
    first.write_bytes(GOOD.replace(b"1", b"2"))
    os.utime(first, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    others["other bytes of the same size and time"] = source(first).fingerprint
    assert len({alone, *others.values()}) == len(others) + 1


def test_the_fingerprint_says_where_the_files_lie(tmp_path: Path) -> None:
    """What is kept under it holds the folder that relative paths start in."""
    one, two = (write_jsonl(tmp_path / name / "x.jsonl", {"a": 1}) for name in ("one", "two"))
    assert source(one).fingerprint != source(two).fingerprint


def test_a_file_is_converted_once(tmp_path: Path) -> None:
    cache, file = tmp_path / "cache", pack(tmp_path / "x.jsonl.gz", GOOD * 3)
    rows = load(file, cache)
    [entry] = (cache / "files").iterdir()
    stamp = (entry / "rows.jsonl").stat()
    os.utime(file, ns=(7, 7))
    assert load(file, cache) == rows
    copy = tmp_path / "elsewhere" / "y.jsonl.gz"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert {(row.origin, row.folder) for row in load(copy, cache)} == {
        (f"y.jsonl.gz:{n}", copy.parent) for n in (1, 2, 3)
    }
    assert [path.name for path in (cache / "files").iterdir()] == [entry.name]
    assert (entry / "rows.jsonl").stat() == stamp


def test_changed_bytes_are_converted_anew_whatever_the_time_says(tmp_path: Path) -> None:
    cache, file = tmp_path / "cache", tmp_path / "x.csv"
    for value in ("1", "2"):
        file.write_text(f"a\n{value}\n")
        os.utime(file, ns=(7, 7))
        assert values(load(file, cache)) == [{"a": value}]


def test_a_jsonl_file_is_not_copied(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", {"a": 1})
    load(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('a\n1\n"never closed\n')
    with pytest.raises(RunError, match=r"x\.csv:3: a quote that opens"):
        load(file, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
