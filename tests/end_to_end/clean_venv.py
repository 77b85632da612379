"""Wheels of this checkout, and virtual environments that see nothing else of it.

Installing the heavy libraries again would take minutes, so they are linked in from the environment that
runs the tests: everything that a wheel requires, but never ftcore itself.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import attrs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
ACME = REPOSITORY / "examples" / "ftcore-acme"
OURS = frozenset({"ftcore", "ftcore-acme"})
TOOLS = frozenset({"pip", "setuptools"})


@attrs.frozen(kw_only=True)
class CleanVenv:
    """A virtual environment, and commands in it."""

    folder: Path

    def python(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run its interpreter."""
        command = [str(self.folder / "bin" / "python"), *arguments]
        return _run(command, cwd=cwd, env=_environment(self.folder))

    def ftcore(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        command = [str(self.folder / "bin" / "ftcore"), *map(str, arguments)]
        return _run(command, cwd=cwd, env=_environment(self.folder))

    def pip(self, *arguments: object) -> str:
        """Run the tests' own pip on this environment, without network."""
        command = [sys.executable, "-m", "pip", "--python", str(self.folder), *map(str, arguments)]
        environment = {**_environment(self.folder), "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = _run(command, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def make_venv(folder: Path, needed: Iterable[str] | None = None) -> CleanVenv:
    """An environment that sees the distributions `needed`, with what they require; without it, all but ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    links = folder / "libraries"
    links.mkdir()
    installed = _installed()
    for name in installed.keys() - OURS - TOOLS if needed is None else _closure(needed, installed):
        _link(installed[name], links)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "libraries.pth").write_text(f"{links}\n")
    return CleanVenv(folder=folder)


@functools.cache
def build(source: Path, kind: str = "wheel") -> Path:
    """The wheel or sdist of a source folder, built outside of it."""
    output = Path(_scratch().name) / source.name / kind
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(output), str(source)]
    done = _run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = output.iterdir()
    return made


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ftcore-wheels-")


def core_requirements() -> list[str]:
    """What `pip install ftcore` brings along, from the metadata of the wheel."""
    metadata: Any = Distribution.at(_unpacked_metadata())
    return [requirement for requirement in metadata.requires or [] if Requirement(requirement).marker is None]


@functools.cache
def _unpacked_metadata() -> Path:
    folder = Path(_scratch().name) / "metadata"
    with zipfile.ZipFile(build(REPOSITORY)) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if ".dist-info/" in name])
    (found,) = folder.iterdir()
    return found


def _installed() -> dict[str, Distribution]:
    return {canonicalize_name(found.metadata["Name"]): found for found in distributions()}


def _closure(needed: Iterable[str], installed: dict[str, Distribution]) -> set[str]:
    pending = [Requirement(text) for text in needed]
    found: set[str] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        pending += [Requirement(text) for text in installed[name].requires or []]
    return found


def _link(found: Distribution, links: Path) -> None:
    tops = {path.parts[0] for path in found.files or [] if path.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = Path(str(found.locate_file(top)))
        if not top.endswith(".pth") and target.exists() and not (links / top).exists():
            (links / top).symlink_to(target)


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def _environment(venv: Path) -> dict[str, str]:
    dropped = ("PYTHON", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "VIRTUAL_ENV", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    own = {"PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, "PATH": f"{venv / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"}
