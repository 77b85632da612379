"""A stranger's plugins come in by the same door: another distribution, its wheel installed beside ftcore's."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from clean_venv import ACME, REPOSITORY, CleanVenv, build, make_venv

pytestmark = pytest.mark.slow

PLUGINS = ("acme_card", "acme_csv", "acme_tickets")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> CleanVenv:
    """Both wheels, and the heavy libraries."""
    made = make_venv(tmp_path_factory.mktemp("acme"))
    made.pip("install", build(REPOSITORY), build(ACME))
    return made


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of the checkout with the profile and the tickets."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("profile.toml", "tickets.jsonl"):
        shutil.copy(ACME / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def finished(venv: CleanVenv, desk: Path) -> tuple[Path, CompletedProcess[str]]:
    """The run folder, and what the command said."""
    done = venv.ftcore("run", "profile.toml", cwd=desk)
    assert done.returncode == 0, done.stderr
    (manifest,) = desk.glob("runs/*/manifest.json")
    return manifest.parent, done


def test_everything_is_imported_from_the_wheels(venv: CleanVenv, desk: Path) -> None:
    code = "import ftcore, ftcore_plugins, ftcore_acme as a; print(*(m.__file__ for m in (ftcore, ftcore_plugins, a)))"
    done = venv.python("-c", code, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert all(Path(name).is_relative_to(venv.folder) for name in done.stdout.split())


def test_plugins_are_listed_with_their_distribution(venv: CleanVenv, desk: Path) -> None:
    listed = json.loads(venv.ftcore("plugins", "--json", cwd=desk).stdout)
    ours = {plugin["name"]: plugin for plugin in listed if plugin["distribution"] == "ftcore-acme"}
    assert tuple(sorted(ours)) == PLUGINS
    assert {(plugin["version"], plugin["state"]) for plugin in ours.values()} == {("0.1.0", "ready")}
    assert ours["acme_csv"]["hooks"] == ["check", "track"]


def test_schema_covers_them(venv: CleanVenv, desk: Path) -> None:
    schema = json.loads(venv.ftcore("schema", cwd=desk).stdout)
    assert schema["properties"]["plugin"]["properties"]["acme_card"]["required"] == ["contact"]


def test_their_own_tests_pass(venv: CleanVenv, desk: Path) -> None:
    done = venv.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(ACME / "tests"), cwd=desk)
    assert done.returncode == 0, done.stdout


def test_check_finds_nothing_wrong(venv: CleanVenv, desk: Path) -> None:
    done = venv.ftcore("check", "profile.toml", cwd=desk)
    assert done.returncode == 0, done.stderr


def test_mistakes_in_their_options_are_found(venv: CleanVenv, desk: Path) -> None:
    done = venv.ftcore("check", "profile.toml", "--set", "plugin.acme_csv.colums=['loss']", cwd=desk)
    assert done.returncode == 2
    assert "plugin.acme_csv.colums: unknown key; did you mean 'columns'?" in done.stderr


def test_formatter_accounts_for_every_row(finished: tuple[Path, Any]) -> None:
    ledger = _report(finished[0])["ledger"]
    assert (ledger["rows"], ledger["dropped"]) == (60, {"no answer": 1})
    assert ledger["trained"] + ledger["held_out"] == 59


def test_training_lowers_the_loss(finished: tuple[Path, Any]) -> None:
    report = _report(finished[0])
    assert report["outcome"] == "finished"
    assert report["loss"]["after"] < report["loss"]["before"]


def test_tracker_writes_every_step_and_the_run(finished: tuple[Path, Any]) -> None:
    folder = finished[0]
    header, *lines = _csv(folder / "steps.csv")
    assert header == ["step", "loss", "learning_rate", "tokens_per_second"]
    assert [int(line[0]) for line in lines] == list(range(1, 41))
    (run,) = _csv(folder.parent / "runs.csv")[1:]
    assert run[:3] == [folder.name, "finished", "40"]


def test_export_is_proved(finished: tuple[Path, CompletedProcess[str]]) -> None:
    folder, done = finished
    (export,) = _report(folder)["exports"]
    assert (export["kind"], export["proof"]["verdict"]) == ("acme_card", "proved")
    assert Path(export["path"]).is_file()
    assert export["path"] in done.stdout.replace("\n", "")


def test_without_the_distribution_the_plugins_are_named(venv: CleanVenv, desk: Path) -> None:
    venv.pip("uninstall", "--yes", "ftcore-acme")
    try:
        done = venv.ftcore("run", "profile.toml", cwd=desk)
    finally:
        venv.pip("install", build(ACME))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(PLUGINS)
    for name, line in zip(("acme_tickets", "acme_csv", "acme_card"), lines, strict=True):
        assert line.startswith("profile.toml:")
        assert f"plugin.{name}: no such plugin; " in line


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def _csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
