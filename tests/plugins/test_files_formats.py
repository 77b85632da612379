"""Each format, written by the libraries that people write it with, gives the rows that went in."""

from __future__ import annotations

import datetime
import decimal
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from files_kit import check, load, pack, packed, source, values, write_arrow, write_parquet

ROWS = [{"a": 'x, "y"\nz', "b": "\u00e9"}, {"a": "", "b": "2"}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("a", "b")}
CSV = b'a,b\n"x, ""y""\nz",\xc3\xa9\n,2\n'
JSONL = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
DOCUMENT = json.dumps(ROWS, indent=2).encode()

TEXTS = {
    "x.jsonl": (JSONL, ["1", "2"]),
    "x.ndjson": (JSONL, ["1", "2"]),
    "x.json": (DOCUMENT, ["row 1", "row 2"]),
    "x.csv": (CSV, ["2", "4"]),
    "x.tsv": (CSV.replace(b",", b"\t").replace(b"x\t", b"x,"), ["2", "4"]),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_plain_and_packed(tmp_path: Path, name: str, packing: str) -> None:
    content, places = TEXTS[name]
    file = tmp_path / (name + packing)
    file.write_bytes(packed(packing, content) if packing else content)
    rows = load(file)
    assert values(rows) == ROWS
    assert [row.origin for row in rows] == [f"{name}{packing}:{place}" for place in places]
    assert {row.folder for row in rows} == {tmp_path}
    assert check(file) == []
    assert values(list(pickle.loads(pickle.dumps(source(file).parts[0].rows)))) == ROWS


def test_packed_text_of_several_pieces(tmp_path: Path) -> None:
    for packing in (".gz", ".bz2", ".xz", ".zst"):
        file = tmp_path / f"x.jsonl{packing}"
        file.write_bytes(packed(packing, JSONL) * 2)
        assert values(load(file)) == ROWS * 2


@pytest.mark.parametrize("write", ["parquet", "arrow stream", "arrow file", "feather"])
def test_tables(tmp_path: Path, write: str) -> None:
    if write == "parquet":
        file = write_parquet(tmp_path / "x.parquet", **COLUMNS)
    elif write == "feather":
        import pyarrow as pa
        from pyarrow import feather

        file = tmp_path / "x.feather"
        feather.write_feather(pa.table(COLUMNS), str(file))
    else:
        file = write_arrow(tmp_path / "x.arrow", stream=write.endswith("stream"), **COLUMNS)
    rows = load(file)
    assert values(rows) == ROWS
    assert [row.origin for row in rows] == [f"{file.name}:row 1", f"{file.name}:row 2"]
    assert check(file) == []


def test_a_large_table_is_read_batch_by_batch(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", n=list(range(5000)))
    rows = load(file)
    assert [row.values["n"] for row in rows] == list(range(5000))
    assert rows[-1].origin == "x.parquet:row 5000"


def test_values_of_a_table_are_what_json_can_hold(tmp_path: Path) -> None:
    import pyarrow as pa

    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    chat = [{"role": "user", "content": "hi"}]
    file = write_parquet(
        tmp_path / "x.parquet",
        chat=[chat],
        day=[when.date()],
        when=[when],
        zone=pa.array([when], pa.timestamp("ms", "UTC")),
        nano=pa.array([1], pa.timestamp("ns")),
        hour=[when.time()],
        price=[decimal.Decimal("1.50")],
        missing=pa.array([float("nan")]),
        many=[[1.5, float("nan"), None]],
        nothing=pa.array([None], pa.null()),
        map=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        category=pa.array(["a"]).dictionary_encode(),
        flag=[True],
        large=[2**62],
    )
    [row] = values(load(file))
    assert row == {
        "chat": chat,
        "day": "2026-01-02",
        "when": "2026-01-02T03:04:05",
        "zone": "2026-01-02T03:04:05+00:00",
        "nano": "1970-01-01T00:00:00.000000001",
        "hour": "03:04:05",
        "price": "1.50",
        "missing": None,
        "many": [1.5, None, None],
        "nothing": None,
        "map": {"k": 1},
        "category": "a",
        "flag": True,
        "large": 2**62,
    }


def test_cells_stay_texts(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('n,flag,none,json\n007,true,,"[{""role"": ""user""}]"\n')
    assert values(load(file)) == [{"n": "007", "flag": "true", "none": "", "json": '[{"role": "user"}]'}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_csv(tmp_path: Path, end: str) -> None:
    file = tmp_path / "x.csv"
    text = '\ufeffa,b\n\n1,"2\n3"\n\n4,5'.replace("\n", end)
    file.write_bytes(text.encode())
    rows = load(file)
    assert values(rows) == [{"a": "1", "b": f"2{end}3"}, {"a": "4", "b": "5"}]
    assert [row.origin for row in rows] == ["x.csv:3", "x.csv:6"]
    assert check(file) == []


def test_a_long_cell(tmp_path: Path) -> None:
    import csv

    limit = csv.field_size_limit()
    file = tmp_path / "x.csv"
    file.write_text(f"a\n{'x' * 300_000}\n")
    assert len(values(load(file))[0]["a"]) == 300_000
    assert csv.field_size_limit() == limit


def test_an_index_column_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",text\n0,hello\n")
    assert values(load(tmp_path / "x.csv")) == [{"": "0", "text": "hello"}]


DOCUMENTS: dict[str, Any] = {
    "one line": json.dumps(ROWS),
    "an object with a list": json.dumps({"version": "1", "data": ROWS, "info": {"tags": ["x"]}}),
    "an object on many lines": json.dumps({"version": 1, "data": ROWS}, indent=1),
    "rows on lines of their own": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "with a mark": "\ufeff" + json.dumps(ROWS),
    "a row a line": JSONL.decode(),
    "a row a line with a mark": "\ufeff" + JSONL.decode(),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_json_documents(tmp_path: Path, name: str, packing: str) -> None:
    content = DOCUMENTS[name].encode()
    file = tmp_path / f"x.json{packing}"
    file.write_bytes(packed(packing, content) if packing else content)
    assert values(load(file)) == ROWS
    assert check(file) == []


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_a_document_is_read_piece_by_piece(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.files import json_rows

    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    rows = [{"n": 12345, "x": [1e10, -0.5, None, True], "t": '\u00e9\\u0041 ]} "'}, {"deep": [[{"a": []}]]}, {}]
    for content in (json.dumps(rows), json.dumps({"k": 12, "rows": rows, "z": 99}, indent=3)):
        (tmp_path / "x.json").write_text(content)
        assert values(load(tmp_path / "x.json", tmp_path / f"{chunk}{len(content)}")) == rows


def test_a_long_document_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    from ftcore_plugins.files.json_rows import json_rows

    file = tmp_path / "x.json"
    with file.open("w") as target:
        target.write("[" + ",".join(json.dumps({"text": "x" * 1000}) for _ in range(30_000)) + "]")
    tracemalloc.start()
    try:
        with file.open("rb") as stream:
            assert sum(1 for _ in json_rows(stream, file)) == 30_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12e6, "of 30 MB"


def test_a_set_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"n": list(range(10))})
    data.save_to_disk(tmp_path / "one", num_shards=3)
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"left by datasets.map")
    rows = load(tmp_path / "one")
    assert [row.values["n"] for row in rows] == list(range(10))
    assert rows[4].origin == "data-00001-of-00003.arrow:row 1"
    assert check(tmp_path / "one") == []
    datasets.DatasetDict(train=data, test=data.select(range(2)), extra=data.select([5])).save_to_disk(tmp_path / "many")
    assert len(load(tmp_path / "many")) == 10
    found = source(tmp_path / "many", split="extra", validation_split="test")
    assert (values(found.parts[0].rows), values(found.validation)) == ([{"n": 5}], [{"n": 0}, {"n": 1}])
    assert check(tmp_path / "many", split="val")[0].message.endswith("has no split 'val'; it has train, extra, test")


def test_formats_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("a\n1\n")
    pack(tmp_path / "a.jsonl.gz", b'{"a": "0"}\n')
    write_parquet(tmp_path / "c.parquet", a=["2"])
    (tmp_path / "about.json").write_text('{"license": "MIT"}')
    assert values(load(tmp_path)) == [{"a": "0"}, {"a": "1"}, {"a": "2"}]
    assert check(tmp_path) == []
