"""Rows of a JSON document: a list of objects, or an object with one such list. Read piece by piece, never whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.lines import MAX_LINE, without_mark
from ftcore_plugins.files.parse import (
    LENIENT,
    MANY_DIGITS,
    SHOWN_RAW,
    STRICT,
    TORN,
    NotARowError,
    is_torn,
    kind_of,
    why_broken,
)
from ftcore_plugins.files.values import Broken, Numbered

__all__ = ["has_a_row_a_line", "json_rows"]

CHUNK = 2**20
"""Characters that are read at once."""

SPACES = re.compile(r"[ \t\r\n]*")
WRITE = 'write a list of objects, or an object with one such list, as in {"data": [...]}'


def has_a_row_a_line(stream: IO[bytes]) -> bool:
    """Whether a file that is called .json is JSONL: its first line is a whole object, and not the last line."""
    first = stream.readline(MAX_LINE).removeprefix(b"\xef\xbb\xbf")
    if not first.lstrip().startswith(b"{") or not first.endswith(b"\n"):
        return False
    try:
        LENIENT.decode(first.decode())
    except (ValueError, RecursionError):
        return False
    return bool(stream.read(CHUNK).strip())


def json_rows(stream: IO[bytes], file: Path) -> Iterator[Numbered]:
    """The objects of the document's list, counted from 1. Raises `DataFault` for any other document."""
    document = _Document(stream, file)
    start = document.peek()
    if start == "[":
        yield from document.items()
    elif start == "{":
        yield from _of_the_only_list(document)
    elif start:
        raise document.fault(f"the file holds {kind_of(document.value())}; {WRITE}")
    else:
        raise DataFault(f"the file is blank; {WRITE}", file)
    if document.peek():
        raise document.fault("the document ends here, and more follows; remove one, or write one object a line")


def _of_the_only_list(document: _Document) -> Iterator[Numbered]:
    document.take("{")
    lists: list[str] = []
    while document.peek() != "}":
        key = document.value()
        document.take(":")
        if document.peek() != "[":
            document.value()
        elif lists:
            raise document.fault(f"the document holds more than one list, {lists[0]} and {key}; {WRITE}")
        else:
            lists.append(str(key))
            yield from document.items()
        if document.peek() != "}":
            document.take(",")
    document.take("}")
    if not lists:
        raise document.fault(f"the file holds one object without a list of rows; {WRITE}")


class _Document:
    """The text of a document, as far as it was read, and the place in it."""

    def __init__(self, stream: IO[bytes], file: Path) -> None:
        self._file = file
        self._text, self._at, self._began = "", 0, 0
        self._lines_before, self._letters_before = 0, 0
        self._stream = TextIOWrapper(stream, "utf-8-sig")

    def fault(self, message: str, ahead: int = 0) -> DataFault:
        """What is wrong at this place, or so many characters after it."""
        place = self._at + ahead
        line = self._lines_before + self._text.count("\n", 0, place) + 1
        return DataFault(message, self._file, line)

    def _broken(self, reason: str, ahead: int = 0) -> DataFault:
        place = self._letters_before + self._at + ahead + 1
        return self.fault(f"broken JSON at character {place}: {reason}", ahead)

    def peek(self) -> str:
        """The next character that is no space, or an empty text at the end."""
        while True:
            self._at = _after_spaces(self._text, self._at)
            if self._at < len(self._text) or not self._fill():
                return self._text[self._at : self._at + 1]

    def take(self, expected: str) -> None:
        """Go past a character."""
        if self.peek() != expected:
            raise self._broken(f"expecting {expected!r}")
        self._at += 1

    def value(self) -> Any:
        """The value that begins here. Raises `NotARowError` after one that JSON does not allow."""
        self.peek()
        while True:
            try:
                value, end, reason = self._decoded()
            except json.JSONDecodeError as error:
                self._require_more(error)
                continue
            if end == len(self._text) and self._fill():
                continue  # the digits of a number may go on
            self._began, self._at = self._at, end
            if reason:
                raise NotARowError(reason)
            return value

    def items(self) -> Iterator[Numbered]:
        """The items of the list that begins here."""
        self.take("[")
        number = 0
        while self.peek() != "]":
            if number:
                self.take(",")
            number += 1
            yield number, self._row()
        self.take("]")

    def _row(self) -> dict[str, Any] | Broken:
        try:
            value = self.value()
        except NotARowError as error:
            reason = str(error)
        else:
            if isinstance(value, dict):
                return value
            reason = f"the row is {kind_of(value)}, not an object"
        return Broken(reason, self._text[self._began : self._at][:SHOWN_RAW])

    def _decoded(self) -> tuple[Any, int, str]:
        """The value, its end, and what is wrong with it."""
        try:
            value, end = STRICT.raw_decode(self._text, self._at)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise self.fault("the JSON is nested too deeply; flatten the row") from None
        except ValueError as error:
            _, end = LENIENT.raw_decode(self._text, self._at)
            return None, end, str(error) if isinstance(error, NotARowError) else MANY_DIGITS
        torn = self._text.find("\\u", self._at, end) >= 0 and is_torn(value)
        return value, end, TORN if torn else ""

    def _require_more(self, error: json.JSONDecodeError) -> None:
        """Read on, for a value that may only be cut off by what was read so far."""
        ahead = error.pos - self._at
        if len(self._text) - self._at > MAX_LINE or not self._fill():
            ended = error.msg.startswith("Unterminated string") or self._at + ahead >= len(self._text) - 1
            cut = "; the file ends here and may be cut off" if ended else ""
            raise self._broken(why_broken(error) + cut, ahead) from None

    def _fill(self) -> bool:
        try:
            more = self._stream.read(max(CHUNK, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            without_mark(error.object[:4], self._file)
            raise DataFault(
                f"not UTF-8 (0x{error.object[error.start]:02x}); save the file as UTF-8", self._file
            ) from None
        self._lines_before += self._text.count("\n", 0, self._at)
        self._letters_before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _after_spaces(text: str, at: int) -> int:
    found = SPACES.match(text, at)
    return found.end() if found else at
