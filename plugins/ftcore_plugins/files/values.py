"""Values of other formats as JSON has them."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from ftcore_plugins.files.parse import SHOWN_RAW

__all__ = ["Broken", "Numbered", "encoded"]


@attrs.frozen
class Broken:
    """What stands in the place of a row: why it is none, and what can be shown of it."""

    reason: str
    raw: str = ""


Numbered = tuple[int, Mapping[str, Any] | Broken]
"""A row with its line, or its place among the rows, counted from 1."""


class _UnfitError(TypeError):
    """The value has no form in JSON; the text says what it is."""


def encoded(number: int, values: Mapping[str, Any] | Broken) -> bytes:
    """The line of a spool.

    Dates and times become ISO 8601 text, decimal numbers text, not-a-number null, as a missing one. A row with bytes
    or infinite numbers is broken.
    """
    if isinstance(values, Mapping):
        try:
            return _line(number, values)
        except (TypeError, ValueError, RecursionError):
            values = _fitted(values)
    return _line(number, values) if isinstance(values, Mapping) else _line(number, values.reason, _plain(values.raw))


def _line(*parts: Any) -> bytes:
    return f"{_ENCODER.encode(parts)}\n".encode()


def _plain(raw: str) -> str:
    return raw[:SHOWN_RAW].encode("utf-8", "backslashreplace").decode()


def _fitted(values: Mapping[str, Any]) -> Mapping[str, Any] | Broken:
    """The values without not-a-number; or what is wrong with the first column that has no form in JSON."""
    fitted: dict[str, Any] = {}
    for column, value in values.items():
        try:
            fitted[column] = _without_nan(value)
            _line(fitted[column])
        except (TypeError, ValueError, RecursionError) as error:
            raw = json.dumps({name: repr(value)[:SHOWN_RAW] for name, value in values.items()})
            return Broken(f"column {column!r} holds {_what(error)}", raw)
    return fitted


def _what(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "half of a character; write the character itself"
    if isinstance(error, RecursionError):
        return "a value that is nested too deeply; flatten it"
    if isinstance(error, _UnfitError):
        return str(error)
    return "an infinite number, which JSON has not; write another or null"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        raise _UnfitError("bytes, which are no text; write them into files and name these")
    raise _UnfitError(f"a {type(value).__name__}, which JSON has not; write it as a text")


# Made once: `json.dumps` with options makes an encoder for every row.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_json, separators=(",", ":"))
