"""Read a profile, lay its hardware profile under it, and remember where each key came from."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.accelerate_file import read_accelerate_file
from ftcore.errors import Problem, ProfileError, Severity
from ftcore.hardware import find_hardware_profile
from ftcore.layer import DOTTED_BOMB, TOO_DEEP, Layer, check_caps, read_layer
from ftcore.locate import KEY, KeyPath

Table = dict[str, Any]

HARDWARE_PROFILE = ("hardware", "profile")


@attrs.frozen(kw_only=True)
class LayeredProfile:
    """The merged tables of all layers; `layers` runs from the bottom to the top."""

    name: str
    tables: Table
    layers: tuple[Layer, ...]
    problems: tuple[Problem, ...] = ()

    def layer_of(self, key: KeyPath) -> Layer | None:
        """The topmost layer that wrote `key`, or None for a default."""
        return next((layer for layer in reversed(self.layers) if _written(layer.tables, key)), None)

    def folder_of(self, key: KeyPath) -> Path:
        """The folder that a path hangs on which `key` names; that of a default is the working directory."""
        layer = self.layer_of(key)
        return layer.folder if layer else Path.cwd()

    def problem(self, key: KeyPath, message: str, severity: Severity = "error") -> Problem:
        """A problem that knows the file and line of `key`, or of the table that lacks it."""
        dotted = ".".join(key)
        for length in range(len(key), 0, -1):
            layer = self.layer_of(key[:length])
            if layer is not None:
                line = layer.line_of(key) if layer.file else None
                return Problem(message=message, key=dotted, file=layer.file, line=line, severity=severity)
        return Problem(message=message, key=dotted, file=self.layers[-1].file, severity=severity)

    def locate(self, problem: Problem) -> Problem:
        """`problem` with file and line, if it came with a key alone."""
        if problem.file is not None or not problem.key:
            return problem
        found = self.problem(tuple(problem.key.split(".")), problem.message)
        return attrs.evolve(problem, file=found.file, line=found.line)


def read_profile(
    path: Path,
    *,
    sets: Sequence[str] = (),
    switch_on: Sequence[str] = (),
    switch_off: Sequence[str] = (),
    fallbacks: Collection[str] = (),
    resolved: bool = False,
) -> LayeredProfile:
    """Read `path` and what lies under and above it; with `resolved`, nothing lies under it.

    `fallbacks` are the plugins that can be switched off though the profile has no table of theirs.
    Raises `ProfileError` when `path` itself cannot be read; what else is wrong is in `problems`.
    """
    problems: list[Problem] = []
    profile = read_layer(path)
    command_line = _command_line_layer(sets, switch_on, problems)
    written = (profile, command_line)
    top = LayeredProfile(name=path.stem, tables=_merge(layer.tables for layer in written), layers=written)
    hardware = [] if resolved else _hardware_layers(top, problems)
    accelerate = [] if resolved else _accelerate_layer(profile, command_line, problems)
    layers = (*hardware, *accelerate, *written)
    tables = _merge(layer.tables for layer in layers)
    problems += _switch_off(tables, switch_off, fallbacks)
    return LayeredProfile(name=path.stem, tables=tables, layers=layers, problems=tuple(problems))


def _command_line_layer(sets: Sequence[str], switch_on: Sequence[str], problems: list[Problem]) -> Layer:
    parsed: list[Table] = []
    for text in sets:
        try:
            parsed.append(_parse_set(text))
        except ProfileError as error:
            problems += error.problems
    tables = _merge([*parsed, {"plugin": {name: {} for name in switch_on}}])
    return Layer(tables=tables if switch_on or sets else {}, folder=Path.cwd())


def _parse_set(text: str) -> Table:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ProfileError(f"--set {text}: write key=value, such as train.learning_rate=3e-4")
    if not KEY.fullmatch(key.strip()):
        raise ProfileError(f"--set {text}: {key!r} is no key; write table.key=value")
    if DOTTED_BOMB.search(key):
        raise ProfileError(f"--set {key[:20]}...: {TOO_DEEP}")
    try:
        table = tomllib.loads(f"{key} = {value}")
    except (ValueError, RecursionError):
        table = _set_string(key, value)
    if len(table) != 1:
        raise ProfileError(f"--set {key}: sets one key; repeat --set for another")
    check_caps(Path("--set"), table)
    return table


def _set_string(key: str, value: str) -> Table:
    """A value that is no TOML is a plain string: `--set model.id=org/name` needs no quotes."""
    try:
        table: Any = tomllib.loads(f'{key} = ""')
    except (ValueError, RecursionError):
        raise ProfileError(f"--set {key}={value}: {key!r} is no key; write table.key=value") from None
    place = table
    while isinstance(next(iter(place.values())), dict):
        place = next(iter(place.values()))
    place[next(iter(place))] = value.strip()
    return dict(table)


def _hardware_layers(top: LayeredProfile, problems: list[Problem]) -> list[Layer]:
    table = top.tables.get("hardware", {})
    named = table.get("profile", "auto") if isinstance(table, dict) else "auto"
    names = named if isinstance(named, list) else [named]
    # What is no string is reported when the table is structured.
    found = [_hardware_layer(name, top, problems) for name in names if isinstance(name, str)]
    return [layer for layer in found if layer is not None]


def _hardware_layer(name: str, top: LayeredProfile, problems: list[Problem]) -> Layer | None:
    found = find_hardware_profile(name, top.folder_of(HARDWARE_PROFILE))
    if isinstance(found, Path):
        try:
            return read_layer(found.absolute())
        except ProfileError as error:
            problems += error.problems
            return None
    problems.append(top.problem(HARDWARE_PROFILE, found))
    return None


def _accelerate_layer(profile: Layer, command_line: Layer, problems: list[Problem]) -> list[Layer]:
    for layer in (command_line, profile):
        table = layer.tables.get("hardware", {})
        name = table.get("accelerate_config") if isinstance(table, dict) else None
        if not isinstance(name, str):
            continue
        path = layer.folder / name
        if not path.is_file():
            line = layer.line_of(("hardware", "accelerate_config")) if layer.file else None
            text = f"no such file: {name} (looked in {layer.folder})"
            problems.append(Problem(message=text, key="hardware.accelerate_config", file=layer.file, line=line))
            return []
        found = read_accelerate_file(path)
        problems += found.problems
        return [Layer(tables=found.tables, folder=path.resolve().parent, file=path, lines=found.lines)]
    return []


def _merge(layers: Iterable[Mapping[str, Any]]) -> Table:
    merged: Table = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(below, dict) and isinstance(value, dict):
                merged[key] = _merge([below, value])
            else:
                merged[key] = _copy(value)
    return merged


def _copy(value: Any) -> Any:
    return _merge([value]) if isinstance(value, dict) else value


def _switch_off(tables: Table, names: Sequence[str], fallbacks: Collection[str]) -> Iterator[Problem]:
    if not names:
        return
    plugins, run = tables.get("plugin", {}), tables.setdefault("run", {})
    off = run.setdefault("without", []) if isinstance(run, dict) else None
    for name in names:
        named = isinstance(plugins, dict) and name in plugins
        if named:
            del plugins[name]
        if name in fallbacks and isinstance(off, list):  # what is no list is told of when it is structured
            off.append(name)
        elif not named:
            yield Problem(message=f"--without {name}: the profile has no [plugin.{name}]")


def _written(tables: Mapping[str, Any], key: KeyPath) -> bool:
    place: Any = tables
    for part in key:
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True
