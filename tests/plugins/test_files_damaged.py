"""Files that were cut off, overwritten or unpacked wrongly: one sentence, never a crash of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from files_kit import check, load, packed, write_arrow, write_parquet
from ftcore.api import RunError


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "stream.arrow"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_table(tmp_path: Path, name: str, damage: str) -> None:
    columns = {"a": [str(number) * 20 for number in range(3000)]}
    file = tmp_path / name
    if name == "x.parquet":
        write_parquet(file, **columns)
    else:
        write_arrow(file, stream=name == "stream.arrow", **columns)
    content = file.read_bytes()
    at = 40 if name == "x.parquet" else 2000  # within the offsets of the column
    file.write_bytes(
        content[: len(content) // 2] if damage == "cut" else content[:at] + b"\x7f" * 60 + content[at + 60 :]
    )
    with pytest.raises(RunError, match=rf"{name}: the file is damaged") as caught:
        load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("inner", ["x.jsonl", "x.csv", "x.json"])
def test_a_damaged_packed_file(tmp_path: Path, packing: str, inner: str) -> None:
    content = b"a\n" + b"".join(b"%d\n" % (number**5) for number in range(20_000))
    whole = packed(packing, content)
    file = tmp_path / (inner + packing)
    for damaged in (whole[: len(whole) // 2], b"no such format, but some more bytes of it"):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"the file is damaged or cut off: .*; make it anew") as caught:
            load(file, tmp_path / "cache")
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)


def test_check_sees_what_is_not_packed(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl.gz"
    file.write_bytes(b'{"a": 1}\n')
    assert "the file is damaged or cut off: not a gzipped file" in check(file)[0].message


def rows_or_fault(file: Path, cache: Path) -> int:
    try:
        return len(load(file, cache))
    except RunError as fault:
        return str(fault).count("\n")


def test_offsets_that_lead_nowhere_behind_a_text_that_is_no_utf8(tmp_path: Path) -> None:
    import pyarrow as pa

    torn = pa.Array.from_buffers(pa.string(), 2, [None, *pa.array([b"a", b"\xff"]).buffers()[1:]])
    file = write_arrow(tmp_path / "x.arrow", stream=False, a=torn, b=[[1] * 7, [2] * 9])
    offsets, wild = (
        b"".join(number.to_bytes(4, "little") for number in numbers) for numbers in ((0, 7, 16), (0, 10**8, 16))
    )
    assert file.read_bytes().count(offsets) == 1
    file.write_bytes(file.read_bytes().replace(offsets, wild))
    with pytest.raises(RunError, match=r"x\.arrow: the file is damaged"):
        load(file)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "stream.arrow"])
def test_any_byte_of_a_table_may_be_wrong(tmp_path: Path, name: str) -> None:
    columns = {"a": ["\u00e9", "b"], "b": [[{"k": 1}], None], "c": [0.5, 1.5]}
    file = tmp_path / name
    if name == "x.parquet":
        write_parquet(file, **columns)
    else:
        write_arrow(file, stream=name == "stream.arrow", **columns)
    content = file.read_bytes()
    seen = set()
    for at in range(0, len(content), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        seen.add(rows_or_fault(file, tmp_path / "cache"))
    assert seen == {0, 2}
