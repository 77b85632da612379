"""One source of a profile's keys, read from a file that may hold anything."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import Problem, ProfileError
from ftcore.locate import KeyPath, line_of

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_KEY = 128
MAX_KEYS = 512

# tomllib takes quadratic time for a dotted key of thousands of parts. Atomic groups: the text may be hostile here, too.
_PART = r"""(?>(?<![\w-])[\w-]+|"(?>[^"\\\n]|\\.)*"|'[^'\n]*')"""
DOTTED_BOMB = re.compile(rf"(?>{_PART}[ \t]*\.[ \t]*){{{2 * MAX_DEPTH}}}")
TOO_DEEP = f"nested over {MAX_DEPTH} levels deep; flatten it"

Table = dict[str, Any]


@attrs.frozen(kw_only=True)
class Layer:
    """One source of keys: a file, or what the command line added. Relative paths hang on `folder`."""

    tables: Table
    folder: Path
    file: Path | None = None
    text: str = ""
    lines: Mapping[KeyPath, int] | None = None  # of a file that is no TOML

    def line_of(self, key: KeyPath) -> int | None:
        """The line of `key`, or of the closest table above it that was written."""
        if self.lines is None:
            return line_of(self.text, key)
        lengths = (length for length in range(len(key), 0, -1) if key[:length] in self.lines)
        return next((self.lines[key[:length]] for length in lengths), None)


def read_layer(path: Path) -> Layer:
    """The layer of a TOML file. Raises `ProfileError` when it cannot be read, or holds too much."""
    text = _read_text(path)
    bomb = DOTTED_BOMB.search(text)
    if bomb:
        raise ProfileError([Problem(message=TOO_DEEP, file=path, line=text.count("\n", 0, bomb.start()) + 1)])
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError([_syntax_problem(path, str(error))]) from None
    except RecursionError:
        raise ProfileError([Problem(message="nested too deeply; flatten it", file=path)]) from None
    except ValueError as error:  # tomllib lets int() and datetime() speak for themselves
        raise ProfileError([Problem(message=f"not valid TOML: {error}", file=path)]) from None
    check_caps(path, tables)
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


def check_caps(path: Path, tables: Table) -> None:
    """Raises `ProfileError` for tables too deep or too large to be settings."""
    pending: list[tuple[int, Any]] = [(1, tables)]
    keys = 0
    while pending:
        depth, value = pending.pop()
        if depth > MAX_DEPTH:
            raise ProfileError([Problem(message=TOO_DEEP, file=path)])
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
