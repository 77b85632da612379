"""Entries of the cache are whole or absent, whoever writes at the same time or is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from ftcore.cli import main
from ftcore.data.cache import cache_folder, cached, clear, default_folder, entries, hold
from ftcore.errors import RunError
from ftcore.testing import make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, run={"cache_dir": str(tmp_path / "cache")})


def write(text):
    return lambda folder: (folder / "file").write_text(text)


def test_an_entry_is_made_once(run) -> None:
    first = cached(run, "rows", "k1", write("one"))
    assert cached(run, "rows", "k1", write("two")) == first
    assert (first / "file").read_text() == "one"
    assert (cached(run, "rows", "k2", write("two")) / "file").read_text() == "two"


def test_the_folder_is_the_profiles_or_the_users(run, monkeypatch, tmp_path) -> None:
    assert cache_folder(run) == tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(make_run(tmp_path)) == tmp_path / "xdg/ftcore" == default_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_folder() == tmp_path / "me/.cache/ftcore"


def test_what_fails_leaves_nothing(run, tmp_path) -> None:
    def half(folder):
        (folder / "file").write_text("half")
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        cached(run, "rows", "k", half)
    assert list((tmp_path / "cache/rows").iterdir()) == []


def test_files_in_folders_of_an_entry_are_a_part_of_it(run) -> None:
    def nested(folder):
        (folder / "a").mkdir()
        (folder / "a/file").write_text("x")

    folder = cached(run, "rows", "k", nested)
    assert entries(folder.parents[1])[0].bytes == 1
    (folder / "a/file").unlink()
    assert (cached(run, "rows", "k", write("again")) / "file").exists()


def test_a_cache_that_cannot_be_written_is_a_sentence(run, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=r"prepared rows cannot be kept in .*cache: .*; set run.cache_dir"):
        cached(run, "rows", "k", write("x"))


def test_a_cache_that_is_only_read_is_read(run, monkeypatch) -> None:
    folder = cached(run, "rows", "k", write("x"))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert cached(run, "rows", "k", write("y")) == folder


@pytest.mark.parametrize("damage", ["truncate", "remove", "no list", "bad list"])
def test_a_torn_entry_is_made_again(run, damage) -> None:
    folder = cached(run, "rows", "k", write("whole"))
    if damage == "truncate":
        (folder / "file").write_text("wh")
    elif damage == "remove":
        (folder / "file").unlink()
    elif damage == "no list":
        (folder / "entry.json").unlink()
    else:
        (folder / "entry.json").write_text("[1")
    assert (cached(run, "rows", "k", write("again")) / "file").read_text() == "again"


def test_two_that_make_the_same_at_once_get_one_whole_entry(run) -> None:
    barrier = threading.Barrier(4)
    found = []

    def build(folder):
        barrier.wait(10)  # all of them are building
        (folder / "file").write_text(f"{threading.get_ident()}" * 1000)

    threads = [threading.Thread(target=lambda: found.append(cached(run, "rows", "k", build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    text = (found[0] / "file").read_text()
    assert text == text[: len(text) // 1000] * 1000
    assert [path.name for path in found[0].parent.iterdir()] == ["k"]


def test_a_list_says_what_is_there_and_when_it_was_used(run, tmp_path) -> None:
    root = tmp_path / "cache"
    assert entries(root) == []
    old = cached(run, "rows", "k1", write("12345"))
    cached(run, "formatted", "k2", write("123"))
    os.utime(old / "entry.json", (1000, 1000))
    first, second = entries(root)
    assert (first.kind, first.key, first.bytes, first.run) == ("formatted", "k2", 3, "test")
    assert (second.kind, second.used) == ("rows", 1000)
    cached(run, "rows", "k1", write("x"))  # asked for again
    assert entries(root)[0].kind == "rows" or entries(root)[0].used - entries(root)[1].used < 1


def test_clearing_takes_the_unused_and_the_damaged(run, tmp_path) -> None:
    root = tmp_path / "cache"
    old, new = (cached(run, "rows", key, write("x")) for key in ("old", "new"))
    os.utime(old / "entry.json", (1000, 1000))
    assert [entry.key for entry in clear(root, unused_since=2000)] == ["old"]
    assert not old.exists()
    assert new.is_dir()
    (new / "file").unlink()
    assert [entry.key for entry in clear(root)] == ["new"]
    assert not new.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from ftcore.data.cache import cached
from ftcore.testing import make_run

def build(folder):
    (folder / "file").write_text("half")
    print("building", flush=True)
    sys.stdin.read()

cached(make_run(Path(sys.argv[1]), run={"cache_dir": sys.argv[1] + "/cache"}), "rows", "k", build)
"""


@pytest.mark.parametrize("sweeper", ["clear", "the next run"])
def test_what_a_killed_run_left_goes_and_what_a_live_one_writes_stays(run, tmp_path, sweeper) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for number in range(2):
            if sweeper == "clear":
                clear(tmp_path / "cache")
            else:
                cached(run, "rows", f"{number}", write("x"))
            found.append(len(list((tmp_path / "cache/rows").glob(".new-*"))))
            process.kill()
            process.wait()
    assert found == [1, 0]


def test_clearing_deletes_nothing_that_is_not_the_caches(tmp_path) -> None:
    theirs = tmp_path / "home/.new-car", tmp_path / "home/notes"
    for folder in theirs:
        folder.mkdir(parents=True)
        (folder / "photo.jpg").write_text("x")
    listed = {"kind": "rows", "key": "k", "run": "r", "files": {"photo.jpg": 1}}
    (theirs[1] / "entry.json").write_text(json.dumps(listed))
    assert clear(tmp_path) == []
    assert all((folder / "photo.jpg").exists() for folder in theirs)


def test_what_a_run_reads_is_not_cleared_until_it_ends(run, tmp_path) -> None:
    """A worker process of a data loader opens it by its name, again at each epoch."""
    folder = cached(run, "formatted", "k", write("x"))
    held = hold(folder)
    assert held is not None
    assert clear(tmp_path / "cache") == []
    assert (folder / "file").exists()
    held.close()
    assert [entry.key for entry in clear(tmp_path / "cache")] == ["k"]


def test_a_full_disk_is_a_sentence(run) -> None:
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"no room for prepared rows in .*; set run.cache_dir"):
        cached(run, "rows", "k", full)


# The command


@pytest.fixture
def ftcore(capsys):
    def call(*arguments):
        code = main(["cache", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_lists_and_clears(run, ftcore, tmp_path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    assert ftcore("--dir", root) == (0, f"nothing in {root}\n", "")
    old = cached(run, "formatted", "a" * 64, write("x" * 3000))
    cached(run, "rows", "b" * 64, write("x"))
    os.utime(old / "entry.json", (1_000_000_000, 1_000_000_000))
    code, out, _ = ftcore("list", "--dir", root)
    assert code == 0
    assert "aaaaaaaaaaaa  test         3 KiB  2001-09-09T01:46:40+00:00" in out
    assert out.endswith(f"3 KiB in {root}\n")
    code, out, _ = ftcore("clear", "--dir", root, "--unused-days", 30, "--json")
    assert [entry["key"] for entry in json.loads(out)["cleared"]] == ["a" * 64]
    assert [entry["kind"] for entry in json.loads(ftcore("--dir", root, "--json")[1])["entries"]] == ["rows"]
    assert ftcore("clear", "--dir", root)[1] == f"cleared 1 entries, 1 B, in {root}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--unused-days", "3"], "--unused-days is for `ftcore cache clear`"),
        (["clear", "--unused-days", "-1"], "--unused-days -1.0: write a number of days, 0 or more"),
        (["clear", "--unused-days", "nan"], "--unused-days nan: write a number of days, 0 or more"),
        (["--dir", "/no/such"], "--dir: no such folder: /no/such"),
    ],
)
def test_a_wrong_use_is_a_sentence(ftcore, arguments, said) -> None:
    assert ftcore(*arguments) == (2, "", f"{said}\n")


def test_without_a_folder_it_is_the_users_own(ftcore, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ftcore()[1] == f"nothing in {tmp_path / 'ftcore'}\n"
