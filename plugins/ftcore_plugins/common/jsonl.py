"""Read JSONL: one JSON object a line, UTF-8 (https://jsonlines.org). Every error names the file and the line."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs

__all__ = ["JsonlError", "Line", "data_files", "parsed", "rows_of"]

SUFFIX = ".jsonl"
MAX_LINE = 64 * 2**20
"""Bytes of the longest line: a file without line ends must not fill the memory."""

UTF8_BOM = b"\xef\xbb\xbf"
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonlError(Exception):
    """What is wrong with a file or with one line of it; `message` is without the place, `str` has it."""

    def __init__(self, message: str, file: Path | None = None, line: int | None = None) -> None:
        place = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(place + message)
        self.message, self.file, self.line = message, file, line


class _RejectedError(ValueError):
    """JSON that Python would accept and we do not; its text is for the user."""


@attrs.frozen(kw_only=True)
class Line:
    """A line with its number, counted from 1, and the offset of its first byte in the file."""

    file: Path
    number: int
    offset: int
    raw: bytes

    def broken(self, reason: str) -> JsonlError:
        """The error that says what is wrong with this line."""
        return JsonlError(reason, self.file, self.number)


def data_files(path: Path) -> list[Path]:
    """The file, or the folder's `.jsonl` files by name. Raises `JsonlError` unless each is a regular file with content.

    A FIFO or a device is never opened: it would hang.
    """
    try:
        return _found(path)
    except OSError as error:
        raise JsonlError(f"{path} cannot be read: {error.strerror}") from error


def _found(path: Path) -> list[Path]:
    if not path.exists():
        raise JsonlError(f"no such file or folder: {path.name} (looked in {path.parent}){_nearest(path)}")
    files = sorted(_in_folder(path)) if path.is_dir() else [path]
    if not files:
        raise JsonlError(f"{path} holds no {SUFFIX} file; put one there or name another folder")
    for file in files:
        if not file.is_file():
            raise JsonlError(f"{file} is not a regular file; name a {SUFFIX} file or a folder of them")
        if file.suffix.lower() != SUFFIX:
            raise JsonlError(
                f"{file} is not a {SUFFIX} file; write the rows as one JSON object a line, in a file *{SUFFIX}"
            )
        if not file.stat().st_size:
            raise JsonlError("the file is empty; write one JSON object a line or remove it", file)
    return files


def _in_folder(folder: Path) -> Iterator[Path]:
    # Hidden files are left by editors and by macOS, which puts a ._x.jsonl beside x.jsonl on foreign disks.
    entries = folder.iterdir()
    return (entry for entry in entries if entry.suffix.lower() == SUFFIX and not entry.name.startswith("."))


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ", which is not there either"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix.lower() == SUFFIX]
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def rows_of(files: Sequence[Path], most_bytes: float = math.inf, most_lines: float = math.inf) -> Iterator[Line]:
    """The lines that are not blank, of one file after the other, until so many bytes or lines were read.

    Raises `JsonlError` for a file that cannot be read, is not UTF-8 by its first bytes, or has only blank lines.
    """
    for file in files:
        blank = True
        try:
            for line in _lines(file):
                if line.raw.strip():
                    blank = False
                    yield line
                most_bytes -= len(line.raw)
                most_lines -= 1
                if most_bytes <= 0 or most_lines <= 0:
                    return
        except OSError as error:
            raise JsonlError(f"cannot be read: {error.strerror}", file) from error
        if blank:
            raise JsonlError("the file has only blank lines; write one JSON object a line or remove it", file)


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        number = offset = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if number == 1 and raw.startswith(UTF16_STARTS):
                raise JsonlError("the file is UTF-16 or UTF-32, not UTF-8; convert it with iconv -t utf-8", path)
            if len(raw) > MAX_LINE:
                raise JsonlError(f"the line is over {MAX_LINE >> 20} MB; write one JSON object a line", path, number)
            bom = len(UTF8_BOM) if number == 1 and raw.startswith(UTF8_BOM) else 0
            yield Line(file=path, number=number, offset=offset + bom, raw=raw[bom:])
            offset += len(raw)


def parsed(line: Line) -> dict[str, Any]:
    """The object on the line. Raises `JsonlError` if there is none, or if it is not what another reader would see.

    Twin keys, NaN, infinities and halves of characters are refused: each of them would be changed silently.
    """
    if b"\0" in line.raw:
        raise line.broken("the line has NUL bytes, as UTF-16 has; save the file as UTF-8")
    text = _text(line)
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"byte {line.offset + len(text[: error.pos].encode())}"
        reason = error.msg[:1].lower() + error.msg[1:]
        raise line.broken(f"broken JSON at {place}: {reason}{_document(line) or _cut_off(line)}") from None
    except RecursionError:
        raise line.broken("the JSON is nested too deeply; flatten the row") from None
    except _RejectedError as error:
        raise line.broken(str(error)) from None
    except ValueError:
        raise line.broken("a number has too many digits; write it as a text") from None
    if not isinstance(values, dict):
        raise line.broken(f"the line holds {_kind(values)}, not an object{_document(line)}")
    if SURROGATE_ESCAPE.search(line.raw) and _is_torn(values):
        raise line.broken("a \\u escape spells half of a character; write the character itself")
    return values


def _text(line: Line) -> str:
    try:
        return line.raw.decode()
    except UnicodeDecodeError as error:
        place = f"byte {line.offset + error.start} (0x{line.raw[error.start]:02x})"
        raise line.broken(f"not UTF-8 at {place}; save the file as UTF-8") from None


def _document(line: Line) -> str:
    start = line.raw.strip()
    if line.number == 1 and (start == b"{" or start.startswith(b"[")):
        return "; the file looks like one JSON document, write one object a line instead"
    return ""


def _cut_off(line: Line) -> str:
    return "" if line.raw.endswith(b"\n") else "; the file ends here and may be cut off"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _is_torn(values: Mapping[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _RejectedError(f"the key {twin!r} is there twice in one object; keep one")
    return values


def _no_constant(name: str) -> NoReturn:
    raise _RejectedError(f"{name} is not JSON; write a number or null")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _RejectedError(f"the number {digits} is too large; write a smaller one or a text")
    return value


# Made once: `json.loads` with hooks makes a decoder for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=_no_constant, parse_float=_finite)
