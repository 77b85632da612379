"""Run folders: made whole, and listed as they stand."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import attrs
import pytest

from ftcore import engine
from ftcore.errors import ExitCode, ProfileError, RunError
from ftcore.locks import COMMAND_LOCK, locked
from ftcore.manifest import FILE, new_manifest, read_manifest
from ftcore.runs import METRICS, PROFILE, create_run_folder, list_runs, planned_folder, run_info
from ftcore.values import RunState


@pytest.fixture
def manifest():
    return new_manifest("light", {"run": {"name": "light"}}, [])


@pytest.fixture
def folder(tmp_path, manifest):
    path = tmp_path / "runs" / "one"
    create_run_folder(path, manifest.settings, manifest)
    return path


# -- planning and making --------------------------------------------------------------------------


def test_a_planned_folder_has_the_name_and_the_time_and_is_not_there(tmp_path):
    folder = planned_folder(tmp_path / "runs", "light")
    assert not folder.exists()
    assert folder.parent == tmp_path / "runs"
    assert time.strptime(folder.name, "light-%Y%m%d-%H%M%S")


def test_a_taken_name_gets_a_number(tmp_path, monkeypatch):
    first = planned_folder(tmp_path, "light")
    for number in range(3):  # the second may turn meanwhile
        (tmp_path / f"{first.name}{f'-{number}' if number > 1 else ''}").mkdir(exist_ok=True)
    again = planned_folder(tmp_path, "light")
    assert again != first
    assert not again.exists()


def test_a_new_folder_holds_the_profile_and_the_manifest(folder, manifest):
    assert sorted(entry.name for entry in folder.iterdir()) == [FILE, PROFILE]
    assert read_manifest(folder).settings == manifest.settings
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in folder.parent.iterdir()] == ["one"], "nothing is left beside it"


def test_a_folder_is_never_seen_half_made(tmp_path, manifest, monkeypatch):
    seen = []
    real = Path.rename

    def rename(path, target):
        seen.append((Path(target).exists(), sorted(entry.name for entry in path.iterdir())))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    create_run_folder(tmp_path / "runs" / "one", manifest.settings, manifest)
    assert seen == [(False, [FILE, PROFILE])]


def test_an_output_folder_that_cannot_be_made_is_a_profile_error(tmp_path, manifest):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProfileError, match=r"run.output_dir: .*file cannot be written: ") as caught:
        create_run_folder(tmp_path / "file" / "one", manifest.settings, manifest)
    assert caught.value.exit_code == ExitCode.PROFILE


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_output_folder_without_permission_is_a_profile_error(tmp_path, manifest):
    tmp_path.chmod(0o500)
    with pytest.raises(ProfileError, match="cannot be written: Permission denied"):
        create_run_folder(tmp_path / "runs" / "one", manifest.settings, manifest)


def test_check_names_an_output_folder_that_cannot_be_written(desk, complaints):
    desk.write("in the way", "runs")
    loaded = desk.load()
    with pytest.raises(ProfileError) as caught:
        engine.check(loaded, report=print)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("run.output_dir", 3)
    assert problem.message == f"{desk.folder / 'runs'} is a file, not a folder; name another one"


def test_check_names_a_disk_without_room(desk, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ProfileError, match=r"run.output_dir: 0.0 GiB free in .* but the run writes at least 0.2 GiB"):
        engine.check(desk.load(), report=print)


def test_a_folder_that_cannot_be_written_in_full_leaves_nothing(tmp_path, manifest, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProfileError, match="No space left on device"):
        create_run_folder(tmp_path / "runs" / "one", manifest.settings, manifest)
    assert list((tmp_path / "runs").iterdir()) == []


def test_two_runs_of_one_name_that_start_in_the_same_second_both_start(desk):
    """As `for seed in 1 2; do ftcore run p.toml --set run.seed=$seed & done` starts them."""
    loaded = desk.load()
    first, second = engine.planned(loaded), engine.planned(loaded)
    second = attrs.evolve(second, folder=first.folder)
    manifest = new_manifest(first.name, loaded.settings(), loaded.active)
    made = [create_run_folder(run.folder, manifest.settings, manifest) for run in (first, second)]
    assert len(set(made)) == 2
    assert all(path.is_dir() for path in made)


# -- the list -------------------------------------------------------------------------------------


def standing(folder, **changes):
    attrs.evolve(read_manifest(folder), **changes).write(folder)


def test_a_run_is_running_while_it_is_held_and_interrupted_once_it_is_not(folder):
    with locked(folder, COMMAND_LOCK):
        assert run_info(folder).state == "running"
    assert run_info(folder).state == "interrupted"


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.STOPPED, RunState.FAILED])
def test_a_run_that_ended_says_how(folder, state):
    standing(folder, state=state, step=4, total_steps=9)
    info = run_info(folder)
    assert (info.state, info.step, info.total_steps, info.loss) == (str(state), 4, 9, None)


def test_step_and_loss_come_from_the_metrics_of_a_run_under_way(folder):
    lines = '{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 2.5}', '{"step": 2, "eval_loss": 2.75}', '{"st'
    (folder / METRICS).write_text("\n".join(lines))
    info = run_info(folder)
    assert (info.step, info.loss) == (2, 2.5)
    assert info.as_json()["folder"] == str(folder)


def test_runs_are_listed_newest_first_and_what_is_no_run_is_passed_over(tmp_path, manifest):
    for name, created in (("a", "2026-01-01T00:00:00+00:00"), ("b", "2026-03-01T00:00:00+00:00"), ("c", "2026-02-01")):
        create_run_folder(tmp_path / name, manifest.settings, attrs.evolve(manifest, created=created))
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / FILE).write_text('{"name": "x"')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / FILE).write_text('{"name": "x"}')
    assert [info.name for info in list_runs(tmp_path)] == ["b", "c", "a"]


def test_no_folder_is_no_runs(tmp_path):
    assert list_runs(tmp_path / "none") == []


@pytest.mark.parametrize(
    "change", ['"state": "bogus"', '"step": "many"', '"created": 5', '"loss": 3', '"total_steps": null', '"state": []']
)
def test_a_manifest_with_odd_values_spoils_no_list(tmp_path, manifest, change):
    create_run_folder(tmp_path / "whole", manifest.settings, manifest)
    create_run_folder(tmp_path / "odd", manifest.settings, manifest)
    path = tmp_path / "odd" / FILE
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {change}}}")
    assert "whole" in [info.name for info in list_runs(tmp_path)]


@pytest.mark.parametrize("change", ['"state": "bogus"', '"loss": 3', '"exports": [{}]', '"samples": [{"x": 1}]'])
def test_a_manifest_with_odd_values_is_a_run_error(tmp_path, manifest, change):
    create_run_folder(tmp_path / "odd", manifest.settings, manifest)
    path = tmp_path / "odd" / FILE
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {change}}}")
    with pytest.raises(RunError, match=r"manifest.json is damaged"):
        read_manifest(tmp_path / "odd").outcome(tmp_path / "odd")
