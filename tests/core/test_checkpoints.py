"""Checkpoints are there whole or not at all, and nothing damaged is ever read."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ftcore.checkpoints import CHECKSUMS, CheckpointStore, verify
from ftcore.errors import RunError
from ftcore.files import file_digest

FILES = {"state.json": b'{"step": 3}', "empty": b"", "weights/part-1.bin": bytes(range(256)) * 8}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(folder=tmp_path / "checkpoints", keep=3)


def write(folder: Path) -> None:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def commit(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        with store.commit(step) as folder:
            write(folder)


def names(store: CheckpointStore) -> list[str]:
    return sorted(entry.name for entry in store.folder.iterdir())


# -- commit ---------------------------------------------------------------------------------------


def test_a_commit_has_its_files_and_their_checksums(store):
    commit(store, 7)
    (checkpoint,) = store.all()
    assert (checkpoint.step, checkpoint.folder.name) == (7, "step-000007")
    listed = json.loads((checkpoint.folder / CHECKSUMS).read_text())["sha256"]
    assert listed == {name: file_digest(checkpoint.folder / name) for name in FILES}
    assert verify(checkpoint.folder) == ""
    assert names(store) == ["step-000007"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(0), OSError(errno.EIO, "disk")])
def test_an_exception_inside_leaves_nothing_and_the_older_ones_as_they_were(store, error):
    commit(store, 1)

    def torn() -> None:
        with store.commit(2) as folder:
            write(folder)
            raise error

    with pytest.raises(type(error)):
        torn()
    assert names(store) == ["step-000001"]
    assert verify(store.folder / "step-000001") == ""


def test_nothing_has_the_name_of_a_checkpoint_before_it_is_whole(store):
    with store.commit(2) as folder:
        write(folder)
        assert store.all() == []
        assert folder.parent == store.folder
    assert [checkpoint.step for checkpoint in store.all()] == [2]


def test_what_a_killed_commit_left_is_removed_by_the_next(store):
    left = store.folder / ".staging-000005"
    write(left)
    commit(store, 6)
    assert names(store) == ["step-000006"]
    write(left)
    store.clean()
    assert names(store) == ["step-000006"]


def test_cleaning_where_nothing_is_does_nothing(store):
    store.clean()
    assert store.all() == []
    assert store.newest(pytest.fail) is None


def test_a_step_that_is_written_again_replaces_the_old_one(store):
    commit(store, 4)
    with store.commit(4) as folder:
        (folder / "other").write_text("new")
    (checkpoint,) = store.all()
    assert verify(checkpoint.folder) == ""
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == [CHECKSUMS, "other"]


def test_every_file_and_folder_is_synced_before_the_rename_and_the_entry_after(store, monkeypatch):
    order = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor):
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_sync(descriptor)

    def rename(path, target):
        order.append("RENAME")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    commit(store, 1)
    before, after = order[: order.index("RENAME")], order[order.index("RENAME") + 1 :]
    staging = store.folder / ".staging-000001"
    wanted = {staging, staging / "weights", staging / CHECKSUMS, *(staging / name for name in FILES)}
    assert {str(path) for path in wanted - {staging / CHECKSUMS}} <= set(before)
    assert str(staging / CHECKSUMS) in before, "the checksums are part of the checkpoint"
    assert after == [str(store.folder)]


# -- no space -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_run_error_and_the_older_checkpoint_stays(store, monkeypatch, number):
    commit(store, 1)

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=r"no space left for the checkpoint of step 2 in .* older checkpoints are intact"
    ):
        commit(store, 2)
    monkeypatch.undo()
    assert names(store) == ["step-000001"]
    assert store.newest(pytest.fail).step == 1


def test_a_disk_too_full_for_a_folder_is_a_run_error_too(store, monkeypatch):
    commit(store, 1)
    real = Path.mkdir

    def full(path, *arguments, **options):
        if path.name.startswith(".staging"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunError, match="no space left for the checkpoint of step 2"):
        commit(store, 2)


def test_a_really_full_disk(tmp_path):
    """A tmpfs of 256 KiB, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount")
    try:
        store = CheckpointStore(folder=disk / "checkpoints", keep=3)
        commit(store, 1)
        with pytest.raises(RunError, match="no space left"), store.commit(2) as folder:
            (folder / "large").write_bytes(b"x" * 2**20)
        assert names(store) == ["step-000001"]
        assert store.newest(pytest.fail).step == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- corruption -----------------------------------------------------------------------------------


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "state missing": (lambda f: (f / "state.json").unlink(), "state.json is missing"),
    "empty file missing": (lambda f: (f / "empty").unlink(), "empty is missing"),
    "part missing": (lambda f: (f / "weights/part-1.bin").unlink(), "weights/part-1.bin is missing"),
    "folder missing": (lambda f: shutil.rmtree(f / "weights"), "weights/part-1.bin is missing"),
    "state emptied": (lambda f: (f / "state.json").write_bytes(b""), "state.json has changed"),
    "part emptied": (lambda f: (f / "weights/part-1.bin").write_bytes(b""), "weights/part-1.bin has changed"),
    "part truncated": (lambda f: os.truncate(f / "weights/part-1.bin", 2047), "weights/part-1.bin has changed"),
    "part grown": (lambda f: os.truncate(f / "weights/part-1.bin", 2049), "weights/part-1.bin has changed"),
    "empty grown": (lambda f: (f / "empty").write_bytes(b"x"), "empty has changed"),
    "state now a folder": (lambda f: unreadable(f / "state.json"), "state.json is missing"),
    "state flipped": (lambda f: flip(f / "state.json", 3), "state.json has changed"),
    "part flipped": (lambda f: flip(f / "weights/part-1.bin", 9999), "weights/part-1.bin has changed"),
    "checksums missing": (lambda f: (f / CHECKSUMS).unlink(), "checksums.json is missing"),
    "checksums emptied": (lambda f: (f / CHECKSUMS).write_bytes(b""), "checksums.json cannot be read"),
    "checksums truncated": (lambda f: os.truncate(f / CHECKSUMS, 40), "checksums.json cannot be read"),
    "checksums garbage": (lambda f: (f / CHECKSUMS).write_bytes(b"\xff\xfe\0garbage"), "checksums.json cannot be read"),
    "checksums of another kind": (lambda f: (f / CHECKSUMS).write_text("[]"), "checksums.json cannot be read"),
    "checksums without sums": (lambda f: (f / CHECKSUMS).write_text("{}"), "checksums.json cannot be read"),
    "checksums null": (lambda f: (f / CHECKSUMS).write_text('{"sha256": null}'), "checksums.json cannot be read"),
    "checksums a list": (lambda f: (f / CHECKSUMS).write_text('{"sha256": []}'), "checksums.json cannot be read"),
    "checksums a list of names": (
        lambda f: (f / CHECKSUMS).write_text('{"sha256": ["state.json"]}'),
        "checksums.json cannot be read",
    ),
    "checksums of nothing": (lambda f: (f / CHECKSUMS).write_text('{"sha256": {}}'), "checksums.json cannot be read"),
    "checksums nested": (lambda f: (f / CHECKSUMS).write_text("[" * 100_000), "checksums.json cannot be read"),
    "checksums a folder": (lambda f: unreadable(f / CHECKSUMS), "checksums.json cannot be read"),
    "everything gone": (lambda f: (shutil.rmtree(f), f.mkdir()), "checksums.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_reason_and_the_one_before_is_used(store, damage):
    act, reason = DAMAGES[damage]
    commit(store, 1, 2, 3)
    act(store.folder / "step-000003")
    reports: list[str] = []
    newest = store.newest(reports.append)
    assert newest is not None
    assert newest.step == 2
    (report,) = reports
    assert report.startswith(f"skipping checkpoint step-000003: {reason}")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_that_is_asked_for_by_name_is_an_error(store, damage):
    act, reason = DAMAGES[damage]
    commit(store, 1)
    act(store.folder / "step-000001")
    with pytest.raises(RunError) as caught:
        store.named(1)
    assert f"step-000001 is damaged: {reason}" in str(caught.value)
    assert str(caught.value).endswith("; resume from another one")


def test_every_single_flipped_bit_is_found(store):
    commit(store, 1)
    folder = store.folder / "step-000001"
    generator = random.Random(1)
    tried = 0
    for path in [folder / name for name in (*FILES, CHECKSUMS)]:
        bits = path.stat().st_size * 8
        for bit in generator.sample(range(bits), min(bits, 60)):
            before = path.read_bytes()
            flip(path, bit)
            assert verify(folder), f"bit {bit} of {path.name}"
            path.write_bytes(before)
            tried += 1
    assert verify(folder) == ""
    assert tried > 150


def test_a_disk_that_cannot_be_read_damages_only_its_checkpoint(store, monkeypatch):
    commit(store, 1, 2)
    real = Path.open

    def bad_sector(path, *arguments, **options):
        if path.name == "part-1.bin" and "step-000002" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", bad_sector)
    reports: list[str] = []
    assert store.newest(reports.append).step == 1
    assert "step-000002: weights/part-1.bin cannot be read" in reports[0]


def test_an_extra_file_harms_nobody(store):
    commit(store, 1)
    (store.folder / "step-000001" / ".DS_Store").write_text("a file browser was here")
    assert store.newest(pytest.fail).step == 1


def test_all_damaged_is_none_and_each_has_its_reason(store):
    commit(store, 1, 2, 3)
    for checkpoint in store.all():
        (checkpoint.folder / "state.json").unlink()
    reports: list[str] = []
    assert store.newest(reports.append) is None
    assert [report.split()[2] for report in reports] == ["step-000003:", "step-000002:", "step-000001:"]


def test_a_checkpoint_that_is_not_there_is_an_error_that_lists_those_that_are(store):
    with pytest.raises(RunError, match=r"no checkpoint of step 5 in .*; there are: none"):
        store.named(5)
    commit(store, 1, 2)
    with pytest.raises(RunError, match=r"no checkpoint of step 5 in .*; there are: 1, 2"):
        store.named(5)
    assert store.named(2).step == 2


# -- order and retention --------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_passed_over(store):
    commit(store, 1)
    for name in ("step-2", "step-000002.bak", "step-abcdef", "latest"):
        (store.folder / name).mkdir()
    assert [checkpoint.step for checkpoint in store.all()] == [1]


def test_a_file_with_the_name_of_a_checkpoint_is_none(store):
    commit(store, 1)
    (store.folder / "step-000009").write_text("no folder")
    assert store.newest(pytest.fail).step == 1
    store.drop_after(1)
    assert [checkpoint.step for checkpoint in store.all()] == [1]


def test_order_is_by_number_beyond_six_digits(store):
    commit(store, 999_999, 1_000_000, 1_000_001)
    assert [checkpoint.step for checkpoint in store.all()] == [999_999, 1_000_000, 1_000_001]
    assert store.newest(pytest.fail).step == 1_000_001


def test_retention_is_by_step_number_whatever_the_clock_says(store):
    commit(store, 1, 2, 3)
    future, past = time.time() + 10**8, 1.0
    os.utime(store.folder / "step-000001", (future, future))
    os.utime(store.folder / "step-000003", (past, past))
    assert store.newest(pytest.fail).step == 3
    commit(store, 4)
    assert [checkpoint.step for checkpoint in store.all()] == [2, 3, 4]


def test_retention_keeps_at_least_the_one_just_written(tmp_path):
    store = CheckpointStore(folder=tmp_path / "c", keep=1)
    commit(store, 1, 2, 3)
    assert [checkpoint.step for checkpoint in store.all()] == [3]


def test_what_a_run_went_on_from_is_not_read_again(store, monkeypatch):
    commit(store, 1, 2, 3)
    again = CheckpointStore(folder=store.folder, keep=2)
    assert again.newest(pytest.fail).step == 3
    read = []
    monkeypatch.setattr("ftcore.checkpoints.verify", lambda folder: read.append(folder.name) or verify(folder))
    commit(again, 4)
    assert read == ["step-000001", "step-000002"], "older than this process, and never verified"
    assert [checkpoint.step for checkpoint in again.all()] == [3, 4]


def test_a_step_that_was_removed_and_came_back_is_not_known_to_be_sound(store):
    commit(store, 1, 2)
    store.drop_after(1)
    commit(CheckpointStore(folder=store.folder, keep=3), 2)
    flip(store.folder / "step-000002" / "state.json", 3)
    commit(store, 3, 4)
    assert [checkpoint.step for checkpoint in store.all()] == [1, 3, 4]


def test_a_failed_commit_drops_no_older_one(tmp_path):
    store = CheckpointStore(folder=tmp_path / "c", keep=1)
    commit(store, 1)
    with pytest.raises(ValueError, match="no"), store.commit(2):
        raise ValueError("no")
    assert [checkpoint.step for checkpoint in store.all()] == [1]


@pytest.mark.parametrize("remove", ["retention", "drop_after", "the same step again"])
def test_a_kill_while_one_is_removed_leaves_no_checkpoint_in_pieces(tmp_path, monkeypatch, remove):
    store = CheckpointStore(folder=tmp_path / "c", keep=1)
    commit(store, 1)

    def killed(path, **options):
        if not options:  # the cleaning up after an exception would not happen in a killed process
            next(entry for entry in Path(path).iterdir() if entry.is_file()).unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        {"drop_after": lambda: store.drop_after(0), "retention": lambda: commit(store, 2)}.get(
            remove, lambda: commit(store, 1)
        )()
    monkeypatch.undo()
    assert [verify(checkpoint.folder) for checkpoint in store.all()] in ([], [""])
    commit(store, 3)
    assert names(store) == ["step-000003"]


def test_drop_after_leaves_what_a_resumed_run_starts_from(store):
    commit(store, 1, 2, 3)
    store.drop_after(2)
    assert [checkpoint.step for checkpoint in store.all()] == [1, 2]
    store.drop_after(0)
    assert store.all() == []
