"""One JSON schema (draft 7, which Taplo reads) over core's tables and every installed plugin's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from ftcore.discovery import Installed, config_class
from ftcore.errors import PluginError
from ftcore.options import Option, options_of, plain
from ftcore.preflight import CORE_TABLES

Schema = dict[str, Any]

_SCALARS: Mapping[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
}


def profile_schema(installed: Installed) -> tuple[Schema, list[str]]:
    """The schema, and one sentence for each broken plugin, whose table it leaves open."""
    plugins: Schema = {}
    broken: list[str] = []
    for name in installed.names:
        try:
            cls = installed.find(name).load()
            plugins[name] = table_schema(config_class(cls), (cls.__doc__ or "").strip().split("\n\n")[0])
        except PluginError as error:
            broken.append(str(error))
            plugins[name] = {"type": "object", "description": str(error)}
    core = {name: table_schema(cls, (cls.__doc__ or "").strip()) for name, cls in CORE_TABLES.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "ftcore profile",
        "type": "object",
        "additionalProperties": False,
        "properties": {**core, "plugin": _object("a plugin is on when its table is there", plugins, [])},
    }, broken


def table_schema(cls: type[Any], description: str) -> Schema:
    """The schema of one table."""
    options = options_of(cls)
    properties = {option.name: _option_schema(option) for option in options}
    return _object(description, properties, [option.name for option in options if option.required])


def _object(description: str, properties: Schema, required: list[str]) -> Schema:
    schema: Schema = {"type": "object", "description": " ".join(description.split()), "additionalProperties": False}
    return {**schema, "properties": properties, **({"required": required} if required else {})}


def _option_schema(option: Option) -> Schema:
    default = {} if option.default is None else {"default": plain(option.default)}
    return {**_type_schema(option.type), **option.bounds, "description": option.help, **default}


def _type_schema(cls: Any) -> Schema:
    origin, arguments = get_origin(cls) or cls, get_args(cls)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        inner = [_type_schema(argument) for argument in arguments if argument is not NoneType]
        return inner[0] if len(inner) == 1 else {"anyOf": inner}
    if origin in (tuple, list):
        return {"type": "array", **({"items": _type_schema(arguments[0])} if arguments else {})}
    if attrs.has(origin):
        return table_schema(origin, origin.__doc__ or "")
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", **({"additionalProperties": _type_schema(arguments[1])} if arguments else {})}
    return dict(_SCALARS.get(origin, {}))
