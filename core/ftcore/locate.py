"""From a key path to the line that it was written on. `tomllib` keeps no positions, so this scans the text.

Only called when there is something to report.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping

KeyPath = tuple[str, ...]

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_KEY_PART}(?:\s*\.\s*{_KEY_PART})*"
KEY = re.compile(_KEY)
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEY})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY})\s*=")
_PART = re.compile(_KEY_PART)
_CLOSING = {'"""': re.compile(r'(?:\\.|[^\\])*?"{3,5}'), "'''": re.compile(r".*?'{3,5}")}
_OPENING = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#.*|[\[\]{}]')


def line_of(text: str, key: KeyPath) -> int | None:
    """The line (from 1) of `key`, or of the closest table above it that was written; None if none was."""
    lines = _lines(text)
    return next((lines[key[:length]] for length in range(len(key), 0, -1) if key[:length] in lines), None)


@functools.lru_cache(maxsize=8)
def _lines(text: str) -> Mapping[KeyPath, int]:
    """The first line of every key, and of every table that a key or a header mentions."""
    lines: dict[KeyPath, int] = {}
    for line, path in _keys(text):
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], line)
    return lines


def _keys(text: str) -> Iterator[tuple[int, KeyPath]]:
    table: KeyPath = ()
    elements: dict[KeyPath, int] = {}
    depth, quote = 0, ""
    for number, line in enumerate(text.split("\n"), start=1):  # TOML ends no line at U+2028 and the like
        inside = depth > 0 or bool(quote)
        header = None if inside else _HEADER.match(line)
        assignment = None if inside or header else _ASSIGNMENT.match(line)
        if header:
            table = _table(_parts(header[2]), elements, new=header[1] == "[[")
            yield number, table
            continue
        if assignment:
            yield number, (*table, *_parts(assignment[1]))
        depth, quote = _after(line[assignment.end() :] if assignment else line, depth, quote)


def _parts(key: str) -> KeyPath:
    return tuple(_unquoted(part) for part in _PART.findall(key))


def _unquoted(part: str) -> str:
    if part[0] not in "\"'":
        return part
    try:
        return next(iter(tomllib.loads(f"{part} = 0")))
    except tomllib.TOMLDecodeError:
        return part[1:-1]


def _table(path: KeyPath, elements: dict[KeyPath, int], *, new: bool) -> KeyPath:
    """`path` with the number of the element behind each array of tables on the way, as an error has it."""
    table: KeyPath = ()
    for length, part in enumerate(path, start=1):
        table = (*table, part)
        if new and length == len(path):
            elements[table] = elements.get(table, -1) + 1
        if table in elements:
            table = (*table, str(elements[table]))
    return table


def _after(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and open triple quote after `line`, which starts inside `depth` and `quote`."""
    position = 0
    while True:
        if quote:
            end = _CLOSING[quote].match(line, position)
            if end is None:
                return depth, quote
            position, quote = end.end(), ""
        token = _OPENING.search(line, position)
        if token is None:
            return max(depth, 0), ""
        position = token.end()
        if token[0] in ('"""', "'''"):
            quote = token[0]
        else:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
