"""A profile as plans read it: for one machine after the other, and with more laid over it."""

from __future__ import annotations

import contextlib
import gc
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.assembly import build_plugins
from ftcore.engine import planned
from ftcore.errors import ProfileError
from ftcore.hardware import find_hardware_profile, hardware_profiles
from ftcore.options import toml_value
from ftcore.planning.plan import Sketch, sketch_run
from ftcore.plugins import Plugins
from ftcore.preflight import LoadedProfile, load_profile
from ftcore.values import Run

OF_THE_MACHINE: Mapping[str, tuple[type, ...]] = {
    "device": (str,),
    "card": (str,),
    "memory": (int, float),
    "tflops": (int, float),
}
"""Keys of `[hardware]` that a plan for another machine takes from it, whatever the profile says."""

NO_COMPILER = "TORCHDYNAMO_DISABLE"
"""Variable with which torch compiles nothing (https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html)."""


@attrs.frozen(kw_only=True)
class Source:
    """A profile's file, and what the command line lays over it; for `ways` see `known_ways`."""

    path: Path
    sets: tuple[str, ...] = ()
    switch_on: tuple[str, ...] = ()
    switch_off: tuple[str, ...] = ()
    ways: tuple[str, ...] | None = None

    def load(self, *sets: str, on: Sequence[str] = (), off: Sequence[str] = ()) -> LoadedProfile:
        """The profile with more laid over it. Raises `ProfileError`."""
        return load_profile(
            self.path,
            sets=[*self.sets, *sets],
            switch_on=[name for name in (*self.switch_on, *on) if name not in off],
            switch_off=[*self.switch_off, *(name for name in off if name not in self.switch_on)],
        )

    def on_machine(self, name: str, *, sets_win: bool = False) -> Source:
        """For the machine of a hardware profile, but with `sets_win` for what `sets` say of it.

        Raises `ProfileError` when there is none of that name.
        """
        found = find_hardware_profile(name, Path.cwd())
        if isinstance(found, str):
            raise ProfileError(f"--on {name}: {found}")
        path = str(found.absolute()) if name.endswith(".toml") else name
        table = _hardware(found)  # a value of another type is told with its line, as the file is laid under
        keys = [key for key, types in OF_THE_MACHINE.items() if type(table.get(key)) in types]
        values = (f"hardware.{key}={toml_value(table[key])}" for key in keys if not (sets_win and self._says(key)))
        names = toml_value([*(self.known_ways().ways or ()), path])
        return attrs.evolve(self, sets=(*self.sets, f"hardware.profile={names}", *values))

    def _says(self, key: str) -> bool:
        return any(text.partition("=")[0].strip() == f"hardware.{key}" for text in self.sets)

    def known_ways(self) -> Source:
        """With the hardware profiles of this profile that say how devices share a model: they hold on any machine."""
        if self.ways is not None:
            return self
        named = self.load().settings()["hardware"]["profile"]  # its paths are absolute
        files = [find_hardware_profile(name, Path.cwd()) for name in _listed(named)]
        ways = tuple(str(file) for file in files if isinstance(file, Path) and "plugin" in _tables(file))
        return attrs.evolve(self, ways=ways)


def machines() -> dict[str, float]:
    """Hardware profiles that say how much memory their card has, and how many GiB, the least first.

    It is 0 where they say it in a wrong manner.
    """
    said = {name: _hardware(path).get("memory") for name, path in hardware_profiles().items()}
    found = {name: value if type(value) in (int, float) else 0.0 for name, value in said.items() if value is not None}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def plugins_of(loaded: LoadedProfile, report: Callable[[str], None]) -> Plugins:
    """The plugins of a profile, without their own checks: a plan needs no weights, data or converters.

    Raises `ProfileError` when two fill one slot, or none does.
    """
    plugins, conflicts = build_plugins(loaded.active, report=report)
    if conflicts:
        raise ProfileError(loaded.source.locate(problem) for problem in conflicts)
    return plugins


def sketch_of(loaded: LoadedProfile, report: Callable[[str], None]) -> Sketch:
    """What the plugins of a profile say of its run."""
    with _light_imports():
        return sketch_run(plugins_of(loaded, report), anywhere(loaded))


def anywhere(loaded: LoadedProfile) -> Run:
    """The run that is planned. It may be for another machine, so nobody is to look for its device in this one."""
    run = planned(loaded)
    hardware = attrs.evolve(run.profile.hardware, device="auto")
    return attrs.evolve(run, profile=attrs.evolve(run.profile, hardware=hardware))


@contextlib.contextmanager
def _light_imports() -> Iterator[None]:
    """A third of the time would go into looking for garbage among what heavy imports make, now and at the exit.

    Another fifth would go into torch's compiler, which bitsandbytes loads as it is imported; a plan computes nothing.
    """
    enabled, before = gc.isenabled(), os.environ.get(NO_COMPILER)
    gc.disable()
    os.environ[NO_COMPILER] = "1"
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays until the process ends
        if enabled:
            gc.enable()
        if before is None:
            del os.environ[NO_COMPILER]
        else:
            os.environ[NO_COMPILER] = before


def _listed(named: str | Sequence[str]) -> Sequence[str]:
    return [named] if isinstance(named, str) else named


def _tables(path: Path) -> Mapping[str, Any]:
    """A hardware profile as it is written; nothing for one that cannot be read, which is told when it is used."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _hardware(path: Path) -> Mapping[str, Any]:
    table = _tables(path).get("hardware")
    return table if isinstance(table, dict) else {}
