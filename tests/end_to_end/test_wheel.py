"""What `pip install ftcore` brings: a complete wheel, and a command that works without the heavy extras."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from clean_venv import REPOSITORY, CleanVenv, build, core_requirements, make_venv

pytestmark = pytest.mark.slow

QUICKSTART = REPOSITORY / "profiles" / "quickstart.toml"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> CleanVenv:
    """The wheel with its core dependencies, and nothing else."""
    venv = make_venv(tmp_path_factory.mktemp("bare"), core_requirements())
    venv.pip("install", build(REPOSITORY))
    return venv


@pytest.fixture(scope="module")
def names() -> set[str]:
    with zipfile.ZipFile(build(REPOSITORY)) as wheel:
        return set(wheel.namelist())


def test_wheel_carries_profiles_and_type_marks(names: set[str]) -> None:
    for folder in ("hardware_profiles", "profiles"):
        shipped = {f"ftcore/{folder}/{path.name}" for path in (REPOSITORY / folder).glob("*.toml")}
        assert shipped
        assert shipped == {name for name in names if name.startswith(f"ftcore/{folder}/")}
    assert {"ftcore/py.typed", "ftcore_plugins/py.typed"} <= names


def test_wheel_carries_every_module_and_nothing_else(names: set[str]) -> None:
    modules = {
        path.relative_to(REPOSITORY / root).as_posix()
        for root in ("core", "plugins")
        for path in (REPOSITORY / root).rglob("*.py")
    }
    modules.add("ftcore/examples/minigrid/record.py")  # a shipped profile trains on what it records
    assert modules == {name for name in names if name.endswith(".py")}
    odd = [name for name in names if not name.startswith(("ftcore/", "ftcore_plugins/", "ftcore-"))]
    odd += [name for name in names if "/tests/" in name or "__pycache__" in name or "/." in name]
    assert odd == []


def test_metadata_names_entry_points_and_license() -> None:
    with zipfile.ZipFile(build(REPOSITORY)) as wheel:
        (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        folder = metadata.rpartition("/")[0]
        points = wheel.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    for line in ("[console_scripts]", "ftcore = ftcore.cli:main", "[ftcore.plugins]", "[ftcore.fallbacks]"):
        assert line in points


def test_wheel_from_the_sdist_is_the_same(tmp_path: Path) -> None:
    with tarfile.open(build(REPOSITORY, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert _contents(build(source)) == _contents(build(REPOSITORY))


def test_it_is_installed_from_the_wheel_alone(bare: CleanVenv, tmp_path: Path) -> None:
    code = "import ftcore, ftcore_plugins; print(ftcore.__file__); print(ftcore_plugins.__file__)"
    done = bare.python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(bare.folder) for line in done.stdout.splitlines())
    assert bare.python("-c", "import torch", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("init",), ("runs",)])
def test_light_commands_work(bare: CleanVenv, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = bare.ftcore(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_plugins_are_all_there(bare: CleanVenv, tmp_path: Path) -> None:
    done = bare.ftcore("plugins", "--json", cwd=tmp_path)
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout)}
    assert {"files", "huggingface", "lora", "merge", "sft", "tensorboard", "tiny_model"} <= found.keys()
    assert [plugin["reason"] for plugin in found.values() if plugin["state"] == "broken"] == []


def test_schema_covers_the_plugins(bare: CleanVenv, tmp_path: Path) -> None:
    done = bare.ftcore("schema", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lora" in json.loads(done.stdout)["properties"]["plugin"]["properties"]


def test_check_finds_mistakes(bare: CleanVenv, tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text("[train]\nlerning_rate = 1e-4\n")
    done = bare.ftcore("check", "profile.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "profile.toml:2: train.lerning_rate: unknown key; did you mean 'learning_rate'?\n"


def test_init_writes_a_profile_that_parses(bare: CleanVenv, tmp_path: Path) -> None:
    done = bare.ftcore("init", "quickstart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = "import tomllib; tomllib.load(open('quickstart.toml', 'rb'))"
    assert bare.python("-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["check", "run"])
def test_missing_libraries_are_named_with_the_command_that_installs_them(
    bare: CleanVenv, tmp_path: Path, command: str
) -> None:
    done = bare.ftcore(command, QUICKSTART, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all("not installed; run: pip install 'ftcore[" in line for line in lines), done.stderr
    assert any("torch" in line and line.endswith("pip install 'ftcore[train]'") for line in lines), done.stderr
    assert list(tmp_path.iterdir()) == []


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
