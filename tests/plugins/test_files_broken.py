from __future__ import annotations

from pathlib import Path

import pytest

from files_kit import GOOD, check, load, source, values
from ftcore.api import RowError, RunError
from ftcore_plugins.files import lines, start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    return path


@pytest.mark.parametrize("content", [b"\n", b" \r\n\n\t\n", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf"])
def test_only_blank_lines(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    [problem] = check(file)
    assert (problem.file, problem.message.split(";")[0]) == (file, "the file has only blank lines")
    with pytest.raises(RunError, match=r"rows\.jsonl: the file has only blank lines"):
        load(file)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be-bom", "utf-32", "utf-32-be-bom"])
def test_utf16_with_a_mark(tmp_path: Path, encoding: str, name: str) -> None:
    file = tmp_path / name
    plain = encoding.removesuffix("-bom")
    text = ("\ufeff" if encoding.endswith("-bom") else "") + '{"a": 1}\n'
    file.write_bytes(text.encode(plain))
    assert "is UTF-16 or UTF-32" in check(file)[0].message
    with pytest.raises(RunError, match=r"rows\.[a-z]+: the file is UTF-16 or UTF-32, not UTF-8"):
        load(file)


BROKEN = {
    "utf-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "NUL bytes"),
    "bad utf-8": (b'{"a": "\xff"}', r"not UTF-8 at byte 26 \(0xff\)"),
    "broken json": (b'{"a": 1,}', r"broken JSON at byte 2[67]: [a-z]"),
    "broken after an accent": ('{"\u00e9": 1,}'.encode(), r"broken JSON at byte 2[78]: [a-z]"),
    "two objects": (b'{"a": 1} {"b": 2}', "broken JSON at byte 28: extra data"),
    "an open text": (b'{"a": "x', "broken JSON at byte 2[67]: (unterminated string|invalid control character)$"),
    "a list": (b"[1]", "the line holds a list, not an object"),
    "a text": (b'"x"', "the line holds a text, not an object"),
    "a number": (b"1", "the line holds a number, not an object"),
    "null": (b"null", "the line holds null, not an object"),
    "true": (b"true", "the line holds a truth value, not an object"),
    "twin keys": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice in one object"),
    "nan": (b'{"a": NaN}', "NaN is not JSON"),
    "infinity": (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
    "overflow": (b'{"a": 1e999}', "the number 1e999 is too large"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "a number has too many digits"),
    "deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "half a character": (rb'{"a": "\ud83d"}', r"a \\u escape spells half of a character"),
    "a nul in the text": (b'{"a": "\0"}', "NUL bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(file: Path, name: str) -> None:
    raw, message = BROKEN[name]
    file.write_bytes(GOOD + b"\n" + GOOD + raw + b"\n" + GOOD)
    [problem] = check(file)
    assert (problem.file, problem.line, problem.key) == (file, 4, "data.path")
    rows = source(file).parts[0].rows
    with pytest.raises(RowError, match=rf"^rows\.jsonl:4: .*{message}") as caught:
        rows[2]
    assert (caught.value.origin, caught.value.reason) == ("rows.jsonl:4", problem.message)
    assert caught.value.raw == (raw + b"\n")[:10_000].decode("utf-8", "backslashreplace")
    assert values([rows[0], rows[1], rows[3]]) == [{"a": 1}] * 3


def test_a_pair_of_surrogate_escapes_is_one_character(file: Path) -> None:
    file.write_bytes(rb'{"a": "\ud83d\ude00"}')
    assert values(load(file)) == [{"a": "\U0001f600"}]


def test_the_line_is_absolute_far_into_a_file(file: Path) -> None:
    file.write_bytes(GOOD * 40_000 + b"{broken\n" + GOOD * 10)
    with pytest.raises(RowError, match=rf"rows\.jsonl:40001: broken JSON at byte {40_000 * len(GOOD) + 1}: "):
        load(file)


@pytest.mark.parametrize("content", [b'[\n{"a": 1}\n]\n', b'[{"a": 1}]', b'{\n  "a": 1\n}\n'])
def test_one_json_document_is_recognised(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"rows\.jsonl:1: .*looks like one JSON document"):
        load(file)


def test_a_file_that_was_cut_off(file: Path) -> None:
    file.write_bytes(GOOD + b'{"a": "x')
    with pytest.raises(RunError, match=r"rows\.jsonl:2: .*the file ends here and may be cut off"):
        load(file)


@pytest.mark.parametrize("before", [GOOD, GOOD * 200_000, b"\n" * 1_100_000 + GOOD])
def test_a_line_without_an_end(file: Path, monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    for module in (lines, start):
        monkeypatch.setattr(module, "MAX_LINE", 2**20)
    file.write_bytes(before + b'{"a": "' + b"x" * 2**20 + b'"}\n')
    with pytest.raises(RunError, match=rf"rows\.jsonl:{before.count(10) + 1}: the line is over 1 MB"):
        load(file)
    if before == GOOD:
        assert check(file)[0].message == "the line is over 1 MB; write shorter ones"


def test_a_line_of_the_longest_size(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 2**20)
    file.write_bytes(GOOD + b'{"a": "' + b"x" * (2**20 - 10) + b'"}\n' + GOOD)
    assert len(load(file)) == 3
