"""The options of a table, read off its attrs class, and their values as TOML has them.

For help, the reference, the schema, `ftcore init` and the profile that a run keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "path"}


@attrs.frozen(kw_only=True)
class Option:
    """One option. `default` is None for an option that is unset or required."""

    name: str
    type: Any
    type_name: str
    default: Any
    required: bool
    help: str
    bounds: Mapping[str, float]


def options_of(cls: type[Any]) -> list[Option]:
    """Every option of a table's class, in the order in which it is written there."""
    attrs.resolve_types(cls)
    return [_option(field) for field in attrs.fields(cls)]


def defaults_of(cls: type[Any]) -> dict[str, Any]:
    """The default of every option that has one, as a TOML table."""
    return {each.name: plain(each.default) for each in options_of(cls) if each.default is not None}


def as_table(value: Any) -> dict[str, Any]:
    """An attrs instance as a TOML table: no None, paths as strings, tuples as lists."""
    return {name: plain(item) for name, item in attrs.asdict(value, recurse=False).items() if item is not None}


def plain(value: Any) -> Any:
    """The value of an option in the types that TOML and JSON have."""
    if attrs.has(type(value)):
        return as_table(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def shown_default(option: Option) -> str:
    """The default as it is written in TOML; `required` or `unset` where there is none."""
    if option.required:
        return "required"
    return "unset" if option.default is None else toml_value(option.default)


def toml_value(value: Any) -> str:
    """One value, or a list of them, as TOML."""
    import tomli_w

    known = plain(value)
    if isinstance(known, dict):
        return "{ " + ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in known.items()) + " }"
    if isinstance(known, list):
        return "[" + ", ".join(toml_value(item) for item in known) + "]"
    return tomli_w.dumps({"x": known}).removeprefix("x = ").strip()


def _toml_key(key: str) -> str:
    import tomli_w

    return tomli_w.dumps({key: 0}).rpartition(" = ")[0]


def _option(field: Any) -> Option:
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    return Option(
        name=field.name,
        type=field.type,
        type_name=type_name(field.type),
        default=None if default is attrs.NOTHING else default,
        required=default is attrs.NOTHING,
        help=field.metadata.get("help", ""),
        bounds=_bounds(field.validator),
    )


def type_name(cls: Any) -> str:
    """A type in the words of a profile: `integer`, `"a" or "b"`, `list of string`."""
    origin, arguments = get_origin(cls) or cls, get_args(cls)
    if origin is Literal:
        return " or ".join(toml_value(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(type_name(argument) for argument in arguments if argument is not NoneType)
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if attrs.has(origin) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "table"
    return _NAMES.get(origin, str(cls))


def _bounds(validator: Any) -> dict[str, float]:
    """The JSON-schema bounds that attrs' own number validators stand for."""
    words = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
    inner = getattr(validator, "validator", validator)  # inside optional()
    parts = getattr(inner, "_validators", (inner,))
    return {words[part.compare_op]: part.bound for part in parts if getattr(part, "compare_op", None) in words}
