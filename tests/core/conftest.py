"""Real distributions in a temporary folder on `sys.path`, and a profile of light plugins that needs no torch."""

from __future__ import annotations

import importlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.cli import main
from ftcore.display import Silent
from ftcore.errors import Problem, ProfileError
from ftcore.preflight import LoadedProfile, load_profile
from light_profile import LIGHT, PLUGINS, PROFILE


@attrs.frozen
class Installation:
    """Distributions that only the test sees. A namesake of `ftcore` hides the plugins of the real one."""

    folder: Path

    def distribution(
        self,
        name: str,
        version: str = "1.0",
        *,
        plugins: Mapping[str, str] | None = None,
        fallbacks: Mapping[str, str] | None = None,
    ) -> None:
        """Install metadata; `plugins` and `fallbacks` map a plugin's name to `module:Class`."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = []
        for group, points in (("ftcore.plugins", plugins), ("ftcore.fallbacks", fallbacks)):
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in (points or {}).items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    def module(self, name: str, source: str) -> None:
        """A module that a plugin may live in."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    def plugin(self, name: str, source: str, *, fallback: bool = False) -> None:
        """The plugin `name`: the class `Plugin` of a module with this source, in a distribution of its own."""
        self.module(f"module_of_{name}", PLUGIN_HEAD + textwrap.dedent(source))
        point = {name: f"module_of_{name}:Plugin"}
        self.distribution(f"dist-{name}", plugins=point, fallbacks=point if fallback else None)

    @property
    def env(self) -> dict[str, str]:
        """What a subprocess needs to see the same distributions."""
        return {"PYTHONPATH": os.pathsep.join([str(self.folder), str(LIGHT)])}

    def seen_by_children(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the processes that this one starts see the same distributions."""
        path = os.pathsep.join([self.env["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path.strip(os.pathsep))


PLUGIN_HEAD = """\
from typing import Any

import attrs

from ftcore.api import *

"""


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real `fsync` makes up nine tenths of a light run. That it is called is a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """No plugin is installed but those that the test installs."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(LIGHT))
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    installed = Installation(folder)
    installed.distribution("ftcore", "0.1.0")
    yield installed
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@attrs.frozen
class Desk:
    """A working folder with the light plugins installed, rows and a profile."""

    folder: Path
    installation: Installation

    @property
    def profile(self) -> Path:
        return self.folder / "light.toml"

    @property
    def diary(self) -> Path:
        return self.folder / "diary.jsonl"

    def write(self, text: str, name: str = "light.toml") -> Path:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def replace(self, old: str, new: str) -> None:
        """Change the profile; `old` must be there."""
        text = self.profile.read_text("utf-8")
        assert old in text
        self.write(text.replace(old, new))

    def append(self, text: str) -> None:
        self.write(self.profile.read_text("utf-8") + text)

    def write_rows(self, count: int, name: str = "rows.jsonl") -> None:
        rows = ({"prompt": f"what is {n}?", "reply": f"{n} is {n * n}."} for n in range(count))
        self.write("".join(json.dumps(row) + "\n" for row in rows), name)

    def load(self, **options: Any) -> LoadedProfile:
        return load_profile(self.profile, **options)

    def runs(self) -> list[Path]:
        return sorted(self.folder.glob("runs/light-*"))

    def events(self, hook: str) -> list[dict[str, Any]]:
        lines = self.diary.read_text("utf-8").splitlines() if self.diary.exists() else []
        return [event for event in map(json.loads, lines) if event["hook"] == hook]


@pytest.fixture
def desk(tmp_path: Path, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The light plugins and a profile that turns them on. It is the working folder, too."""
    installation.distribution("light-plugins", "1.2", plugins=PLUGINS)
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = Desk(folder, installation)
    made.write_rows(12)
    made.write(PROFILE)
    return made


@pytest.fixture
def problems_of() -> Callable[..., list[Problem]]:
    """Every problem that `load_profile` reports; the test fails if there is none."""

    def load(path: Path, **options: Any) -> list[Problem]:
        with pytest.raises(ProfileError) as caught:
            load_profile(path, **options)
        return caught.value.problems

    return load


@pytest.fixture
def complaints(problems_of: Callable[..., list[Problem]]) -> Callable[..., list[str]]:
    """The problems as the user reads them, files without their folders."""

    def load(path: Path, **options: Any) -> list[str]:
        problems = problems_of(path, **options)
        return [str(attrs.evolve(p, file=Path(p.file.name)) if p.file else p) for p in problems]

    return load


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a driver's tool on PATH, which runs a shell script; there is no other one."""
    place = tmp_path / "tools"
    place.mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")

    def install(name: str, script: str) -> None:
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)

    return install


@pytest.fixture
def gpus(tool: Callable[[str, str], None]) -> Callable[..., None]:
    """Makes this a machine with NVIDIA GPUs: a name, MiB of memory and a compute capability each."""

    def install(*found: tuple[str, int, float]) -> None:
        lines = (
            f"{index}, GPU-{index}a2b, {name}, {memory}, 570.86.10, {capability}"
            for index, (name, memory, capability) in enumerate(found)
        )
        tool("nvidia-smi", "\n".join(["cat <<'END'", *lines, "END"]))

    return install


@pytest.fixture
def ftcore(capsys):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leave:  # argparse's way
            code = leave.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


class Noted(Silent):
    """Remembers what was shown."""

    def __init__(self):
        self.lines = []

    def stage(self, number, total, title):
        self.lines.append(f"[{number}/{total}] {title}")

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def display():
    return Noted()
