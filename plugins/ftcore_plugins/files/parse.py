"""Parse a line of JSONL: one JSON object, UTF-8 (https://jsonlines.org), and nothing that JSON has not."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

__all__ = [
    "LENIENT",
    "MANY_DIGITS",
    "STRICT",
    "TORN",
    "NotARowError",
    "is_torn",
    "kind_of",
    "parsed",
    "shown",
    "why_broken",
]

SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
SHOWN_RAW = 10_000
"""Characters of a broken row that are kept to be shown."""

MANY_DIGITS = "a number has too many digits; write it as a text"
TORN = "a \\u escape spells half of a character; write the character itself"


class NotARowError(ValueError):
    """What stands there is no row; the text says why, for the user."""


def parsed(raw: bytes, number: int, offset: int) -> dict[str, Any]:
    """The object on a line, the `number`th of its file, whose first byte is the `offset`th.

    Raises `NotARowError` if there is none, or if it is not what another reader would see: twin keys, NaN,
    infinities and halves of characters would each be changed silently.
    """
    if b"\0" in raw:
        raise NotARowError("the line has NUL bytes, as UTF-16 has; save the file as UTF-8")
    text = _text(raw, offset)
    try:
        values = STRICT.decode(text)
    except json.JSONDecodeError as error:
        place = f"byte {offset + len(text[: error.pos].encode())}"
        reason = why_broken(error)
        hint = _document(raw, number) or ("" if raw.endswith(b"\n") else "; the file ends here and may be cut off")
        raise NotARowError(f"broken JSON at {place}: {reason}{hint}") from None
    except RecursionError:
        raise NotARowError("the JSON is nested too deeply; flatten the row") from None
    except NotARowError:
        raise
    except ValueError:
        raise NotARowError(MANY_DIGITS) from None
    if not isinstance(values, dict):
        raise NotARowError(f"the line holds {kind_of(values)}, not an object{_document(raw, number)}")
    if b"\\u" in raw and SURROGATE_ESCAPE.search(raw) and is_torn(values):
        raise NotARowError(TORN)
    return values


def why_broken(error: json.JSONDecodeError) -> str:
    """What the parser says, without the `at` that its own place follows."""
    reason = error.msg.removesuffix(" at").removesuffix(" starting")
    return reason[:1].lower() + reason[1:]


def shown(raw: bytes) -> str:
    """What a person is shown of a broken line."""
    return raw[:SHOWN_RAW].decode("utf-8", "backslashreplace")


def _text(raw: bytes, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start} (0x{raw[error.start]:02x})"
        raise NotARowError(f"not UTF-8 at {place}; save the file as UTF-8") from None


def _document(raw: bytes, number: int) -> str:
    start = raw.strip()
    if number == 1 and (start == b"{" or start.startswith(b"[")):
        return "; the file looks like one JSON document, write one object a line or call it .json"
    return ""


def kind_of(value: Any) -> str:
    """A JSON value's kind in words."""
    names = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def is_torn(values: Any) -> bool:
    """Whether a text in `values` has half of a character, which UTF-8 cannot hold."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise NotARowError(f"the key {twin!r} is there twice in one object; keep one")
    return values


def _no_constant(name: str) -> NoReturn:
    raise NotARowError(f"{name} is not JSON; write a number or null")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotARowError(f"the number {digits} is too large; write a smaller one or a text")
    return value


# Made once: `json.loads` with hooks makes a decoder for every line.
STRICT = json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=_no_constant, parse_float=_finite)
LENIENT = json.JSONDecoder(parse_int=str)
"""Finds the end of a value that `STRICT` refuses."""
