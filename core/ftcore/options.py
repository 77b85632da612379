"""The options of a table, read off its attrs class: for help, the reference, the schema and `ftcore init`."""

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


def shown_default(option: Option) -> str:
    """The default as it is written in TOML; `required` or `unset` where there is none."""
    if option.required:
        return "required"
    return "unset" if option.default is None else toml_value(option.default)


def toml_value(value: Any) -> str:
    """One value, or a list of them, as TOML."""
    import tomli_w

    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    if isinstance(plain, dict):
        return "{ " + ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in plain.items()) + " }"
    if isinstance(plain, list):
        return "[" + ", ".join(toml_value(item) for item in plain) + "]"
    return tomli_w.dumps({"x": plain}).removeprefix("x = ").strip()


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
