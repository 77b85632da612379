"""Read a profile, lay its hardware profile under it, and remember where each key came from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import Problem, ProfileError, Severity
from ftcore.hardware import find_hardware_profile
from ftcore.locate import KEY, KeyPath, line_of

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_KEY = 128
MAX_KEYS = 512

# tomllib takes quadratic time for a dotted key of thousands of parts. Atomic groups: the text may be hostile here, too.
_PART = r"""(?>(?<![\w-])[\w-]+|"(?>[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED_BOMB = re.compile(rf"(?>{_PART}[ \t]*\.[ \t]*){{{2 * MAX_DEPTH}}}")
_TOO_DEEP = f"nested over {MAX_DEPTH} levels deep; flatten it"

Table = dict[str, Any]


@attrs.frozen(kw_only=True)
class Layer:
    """One source of keys: a file, or what the command line added. Relative paths hang on `folder`."""

    tables: Table
    folder: Path
    file: Path | None = None
    text: str = ""


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

    def problem(self, key: KeyPath, message: str, severity: Severity = "error") -> Problem:
        """A problem that knows the file and line of `key`, or of the table that lacks it."""
        dotted = ".".join(key)
        for length in range(len(key), 0, -1):
            layer = self.layer_of(key[:length])
            if layer is not None:
                line = line_of(layer.text, key) if layer.file else None
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
    resolved: bool = False,
) -> LayeredProfile:
    """Read `path` and what lies under and above it; with `resolved`, nothing lies under it.

    Raises `ProfileError` when `path` itself cannot be read; what else is wrong is in `problems`.
    """
    problems: list[Problem] = []
    profile = _read_layer(path)
    command_line = _command_line_layer(sets, switch_on, problems)
    top = _merge([profile.tables, command_line.tables])
    hardware = [] if resolved else _hardware_layer(top, profile, problems)
    layers = (*hardware, profile, command_line)
    tables = _merge(layer.tables for layer in layers)
    problems += _switch_off(tables, switch_off)
    return LayeredProfile(name=path.stem, tables=tables, layers=layers, problems=tuple(problems))


def _read_layer(path: Path) -> Layer:
    text = _read_text(path)
    bomb = _DOTTED_BOMB.search(text)
    if bomb:
        raise ProfileError([Problem(message=_TOO_DEEP, file=path, line=text.count("\n", 0, bomb.start()) + 1)])
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError([_syntax_problem(path, str(error))]) from None
    except RecursionError:
        raise ProfileError([Problem(message="nested too deeply; flatten it", file=path)]) from None
    except ValueError as error:  # tomllib lets int() and datetime() speak for themselves
        raise ProfileError([Problem(message=f"not valid TOML: {error}", file=path)]) from None
    _check_caps(path, tables)
    return Layer(tables=tables, folder=path.resolve().parent, file=path, text=text)


def _read_text(path: Path) -> str:
    try:
        if not path.exists():
            raise ProfileError(f"no such profile: {path} (looked in {path.absolute().parent})")
        if not path.is_file():
            raise ProfileError(f"{path} is no file; name a profile such as profile.toml")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ProfileError(f"{path}: over {MAX_BYTES // 1024} KiB; a profile holds settings, not data")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProfileError([Problem(message="not UTF-8; save the file as UTF-8", file=path, line=line)]) from None


def _syntax_problem(path: Path, message: str) -> Problem:
    text, _, place = message.partition(" (at ")
    words = place.rstrip(")").replace(",", "").split()
    line = int(words[1]) if words[:1] == ["line"] else None
    at_end = " at the end of the file" if place.startswith("end") else ""
    return Problem(message=f"not valid TOML: {text[:1].lower()}{text[1:]}{at_end}", file=path, line=line)


def _check_caps(path: Path, tables: Table) -> None:
    pending: list[tuple[int, Any]] = [(1, tables)]
    keys = 0
    while pending:
        depth, value = pending.pop()
        if depth > MAX_DEPTH:
            raise ProfileError([Problem(message=_TOO_DEEP, file=path)])
        if isinstance(value, dict):
            long = next((key for key in value if len(key) > MAX_KEY), None)
            if long is not None:
                text = f"a key of {len(long)} characters ({long[:20]}...); the longest allowed has {MAX_KEY}"
                raise ProfileError([Problem(message=text, file=path)])
            pending += [(depth + 1, child) for child in value.values()]
            keys += len(value) + 1
            if keys > MAX_KEYS:
                text = f"over {MAX_KEYS} keys and tables; a profile holds settings, not data"
                raise ProfileError([Problem(message=text, file=path)])
        elif isinstance(value, list):
            pending += [(depth + 1, child) for child in value]


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
    if _DOTTED_BOMB.search(key):
        raise ProfileError(f"--set {key[:20]}...: {_TOO_DEEP}")
    try:
        table = tomllib.loads(f"{key} = {value}")
    except (ValueError, RecursionError):
        table = _set_string(key, value)
    if len(table) != 1:
        raise ProfileError(f"--set {key}: sets one key; repeat --set for another")
    _check_caps(Path("--set"), table)
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


def _hardware_layer(top: Table, profile: Layer, problems: list[Problem]) -> list[Layer]:
    table = top.get("hardware", {})
    name = table.get("profile", "auto") if isinstance(table, dict) else "auto"
    if not isinstance(name, str):
        return []  # reported when the table is structured
    found = find_hardware_profile(name, profile.folder)
    if isinstance(found, Path):
        try:
            return [_read_layer(found.absolute())]
        except ProfileError as error:
            problems += error.problems
            return []
    file, line = profile.file, line_of(profile.text, ("hardware", "profile"))
    problems.append(Problem(message=found, key="hardware.profile", file=file if line else None, line=line))
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


def _switch_off(tables: Table, names: Sequence[str]) -> Iterator[Problem]:
    plugins = tables.get("plugin", {})
    for name in names:
        if not isinstance(plugins, dict) or name not in plugins:
            yield Problem(message=f"--without {name}: the profile has no [plugin.{name}]")
        else:
            del plugins[name]


def _written(tables: Mapping[str, Any], key: KeyPath) -> bool:
    place: Any = tables
    for part in key:
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True
