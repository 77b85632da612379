"""Tools and calls of tools as data sets write them, made into OpenAI's form, which templates know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftcore.api import RowError

__all__ = ["NoMessageError", "calls_of", "parsed", "tools_of"]


class NoMessageError(Exception):
    """What is wrong with a message."""


def tools_of(tools: Any, origin: str) -> Sequence[Mapping[str, Any]]:
    """The tools that a model may call, as JSON schemas. Raises `RowError` for anything else; text is read as JSON."""
    ready = parsed(tools or "[]") if isinstance(tools, str) else tools or []
    if not isinstance(ready, list) or not all(isinstance(tool, Mapping) for tool in ready):
        raise RowError("tools must be a list of JSON schemas", origin=origin)
    return [_tool(tool) for tool in ready]


def calls_of(raw: Mapping[str, Any], written: Any) -> list[Any]:
    """The calls of a message, or those `written` as its text, with arguments as an object rather than its JSON.

    Raises `NoMessageError` for a call without a function's name.
    """
    calls = raw.get("tool_calls") or []
    if raw.get("function_call"):  # OpenAI's older form
        calls = [raw["function_call"]]
    if written is not None:
        made = parsed(written)
        calls = made if isinstance(made, list) else [made]
    ready = [_call(call) for call in calls] if isinstance(calls, list) else [None]
    if None in ready:
        raise NoMessageError("has tool calls of which one has no function with a name")
    return ready


def parsed(text: Any) -> Any:
    """The JSON value in a text; None if there is none."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _tool(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """As it is asked for in use. LLaMA-Factory's sets have the function alone."""
    if "function" in raw or "name" not in raw:
        return raw
    return {"type": "function", "function": {name: value for name, value in raw.items() if name != "type"}}


def _call(raw: Any) -> dict[str, Any] | None:
    call = parsed(raw) if isinstance(raw, str) else raw
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    made = parsed(arguments) if isinstance(arguments, str) else arguments
    ready = made if isinstance(made, Mapping) else arguments if arguments is not None else {}
    outer = {key: call[key] for key in ("id",) if isinstance(call.get(key), str)}
    return {"type": "function", **outer, "function": {"name": function["name"], "arguments": ready}}
