"""`check` reads little, imports little, and says as much as it can."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from files_kit import GOOD, check
from ftcore.testing import heavy_imports


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    return path


def test_check_tells_of_rows_that_the_run_will_stop_at(file: Path) -> None:
    file.write_bytes(GOOD * 5 + b"broken\n")
    assert [problem.line for problem in check(file)] == [6]
    assert check(file, max_rows=5) == [], "nobody knows yet whether it is among them"
    assert check(file, max_bad_rows=1) == []
    file.write_bytes(b"broken\n" * 2 + GOOD)
    assert [problem.line for problem in check(file, max_bad_rows=1)] == [1, 2]


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


def test_check_reports_a_few_of_many_problems(file: Path) -> None:
    file.write_bytes(b"broken\n" * 100)
    assert [problem.line for problem in check(file)] == list(range(1, 11))


def test_check_looks_at_every_small_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(GOOD + b"broken\n")
    assert [(problem.file and problem.file.name, problem.line) for problem in check(tmp_path)] == [
        ("a.jsonl", 2),
        ("b.jsonl", 2),
    ]
    (tmp_path / "c.csv").write_text("only,a,header\n")
    [problem] = check(tmp_path)
    assert str(problem) == f"{tmp_path / 'c.csv'}:1: data.path: the file has no rows; write some or remove it"


def test_the_plugin_is_light() -> None:
    assert heavy_imports("ftcore_plugins.files") == []


def test_check_imports_nothing_heavy(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from files_kit import check;"
        f"assert check(Path({str(file)!r})) == []; assert not check(None, id='a/b');"
        "print([name for name in ('pyarrow', 'datasets', 'huggingface_hub', 'numpy') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert answer.stdout.strip() == "[]"
