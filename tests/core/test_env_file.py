"""A `.env` file: secrets reach plugins through the environment, and nothing of them is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROBE = """
import os
class Plugin:
    @hookimpl
    def check(self):
        return [Problem(message=f"token is {os.environ.get('ACME_TOKEN', 'missing')}")]
"""


@pytest.fixture
def place(desk, tmp_path, monkeypatch):
    """A working directory, and a plugin that says which token it sees."""
    desk.installation.plugin("probe", PROBE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACME_TOKEN", raising=False)
    yield tmp_path
    os.environ.pop("ACME_TOKEN", None)


def seen(ftcore, desk):
    return ftcore("check", str(desk.profile), "--with", "probe")[2]


def test_a_plugin_sees_what_the_file_says(place, ftcore, desk):
    assert "token is missing" in seen(ftcore, desk)
    (place / ".env").write_text("# ours\nexport ACME_TOKEN='from the file'\n")
    assert "token is from the file" in seen(ftcore, desk)


def test_the_environment_wins(place, ftcore, desk, monkeypatch):
    monkeypatch.setenv("ACME_TOKEN", "from the shell")
    (place / ".env").write_text("ACME_TOKEN=from the file\n")
    assert "token is from the shell" in seen(ftcore, desk)


@pytest.mark.parametrize("line", ["ACME_TOKEN", "ACME_TOKEN='secret", "= secret", "a b = secret"])
def test_a_broken_line_is_named_without_its_value(place, ftcore, desk, line):
    (place / ".env").write_text(f"OTHER=1\n{line}\n")
    code, out, err = ftcore("check", str(desk.profile))
    assert code == 2
    assert ".env:2: write NAME=value" in err
    assert "secret" not in out + err


def test_a_file_that_cannot_be_read_is_named(place, ftcore, desk):
    (place / ".env").write_bytes(b"\xff\xfe\x00")
    code, _, err = ftcore("check", str(desk.profile))
    assert code == 2
    assert ".env cannot be read" in err


def test_a_folder_of_that_name_is_passed_over(place: Path, ftcore, desk):
    (place / ".env").mkdir()
    assert ftcore("check", str(desk.profile))[0] == 0


def test_a_run_writes_nothing_of_it(place, ftcore, desk):
    (place / ".env").write_text("ACME_TOKEN=canary-2718\n")
    assert ftcore("run", str(desk.profile), "--quiet")[0] == 0
    (folder,) = desk.runs()
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"canary-2718" in path.read_bytes()]
