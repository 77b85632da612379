"""A table of a profile -> its attrs class, or every mistake in it. Built on cattrs, with strict scalars."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import cattrs
from cattrs import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.cols import (
    homogenous_tuple_structure_factory,
    is_mapping,
    list_structure_factory,
    mapping_structure_factory,
)
from cattrs.gen import make_dict_structure_fn_from_attrs

SHOWN = 40
"""Most characters of a wrong value that an error quotes."""

MAX_PATH, MAX_NAME = 2048, 255
"""Bytes of a path, and of one name in it; systems take 4096 and 255."""

KeyPath = tuple[str, ...]
Mistake = tuple[KeyPath, str]

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path in quotes"}


def structure(cls: type[Any], table: Any, key: KeyPath) -> tuple[Any, list[Mistake]]:
    """An instance of `cls` and no mistakes, or None and all of them, each with its key path."""
    if not isinstance(table, Mapping):
        return None, [(key, f"expected a table, got {_shown(table)}")]
    try:
        return _CONVERTER.structure(table, cls), []
    except Exception as error:  # cattrs raises what a validator raises, bare for a class-level one
        return None, [((*key, *path), message) for path, message in _mistakes(error, cls)]


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the names there are if none is near; empty if there are none."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def _mistakes(error: BaseException, cls: type[Any]) -> list[Mistake]:
    if isinstance(error, ForbiddenExtraKeysError):
        names = [field.name for field in attrs.fields(error.cl)]
        return [((name,), f"unknown key{nearest(name, names)}") for name in sorted(error.extra_fields)]
    if isinstance(error, ClassValidationError | IterableValidationError):
        grouped, plain = error.group_exceptions()
        found = [mistake for inner in plain for mistake in _mistakes(inner, cls)]
        for inner, note in grouped:
            place = getattr(note, "name", None) or str(getattr(note, "index", ""))
            found += [((place, *path), message) for path, message in _mistakes(inner, cls)]
        return found
    if isinstance(error, KeyError):
        return [((), "required, but not set")]
    return [((), str(error) or type(error).__name__)]


def _shown(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    kind = kinds.get(type(value), "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}")
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        text = "..."
    return f"{text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'} ({kind})"


def check_path(text: str) -> Path:
    """`text` as a path, `~` resolved. Raises `ValueError` for what no system takes for one."""
    if "\0" in text or len(text.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in text.split("/")):
        raise ValueError(f"no file can be called {_shown(text)}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"no user is called {text.partition('/')[0][1:]!r}; write the path out") from None


def _scalar(cls: type[Any]) -> Callable[[Any, Any], Any]:
    accepted: tuple[type[Any], ...] = {float: (float, int), Path: (str,)}.get(cls, (cls,))

    def structure_scalar(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise ValueError(f"expected {_NAMES[cls]}, got {_shown(value)}")
        if type(value) is int and not -(2**63) <= value < 2**63:  # as TOML has it; tomllib reads any
            raise ValueError(f"expected {_NAMES[cls]} of at most 64 bits, got {_shown(value)}")
        if cls is float and not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        if cls is Path and not value:
            raise ValueError("is empty; name a file or folder, or leave it out")
        return check_path(value) if cls is Path else cls(value)

    return structure_scalar


def _structure_literal(value: Any, cls: Any) -> Any:
    choices = get_args(cls)
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    hint = nearest(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"expected one of {listed}, got {_shown(value)}{hint if 'mean' in hint else ''}")


def _structure_union(value: Any, cls: Any) -> Any:
    errors = []
    for option in get_args(cls):
        if option is type(None):
            continue
        try:
            return _CONVERTER.structure(value, option)
        except Exception as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise ValueError(" or ".join(dict.fromkeys(message for error in errors for _, message in _mistakes(error, cls))))


def _checked(kind: type[Any], name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
    """cattrs' own hook for a container, behind a check: cattrs takes a string for a list of letters."""

    def make_hook(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        inner = factory(cls, converter)

        def structure_container(value: Any, _: Any) -> Any:
            if not isinstance(value, kind):
                raise ValueError(f"expected {name}, got {_shown(value)}")
            return inner(value, cls)

        return structure_container

    return make_hook


def _class_factory(cls: type[Any], converter: cattrs.Converter) -> Callable[..., Any]:
    attrs.resolve_types(cls)
    # Each field has a type of its own for cattrs: what it takes by name instead, `converter` say, may be an option.
    own, fields = cattrs.Converter(detailed_validation=True), []
    for field in attrs.fields(cls):
        kind = type(field.name, (), {})
        own.register_structure_hook(kind, _field_hook(field, converter))
        fields.append(field.evolve(type=kind))
    return make_dict_structure_fn_from_attrs(fields, cls, own, _cattrs_forbid_extra_keys=True)


def _field_hook(field: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Structure one field and run its validator, which attrs would run too late to keep the path."""
    inner = converter.get_structure_hook(field.type)

    def structure_field(value: Any, _: Any) -> Any:
        structured = inner(value, field.type)
        if field.metadata.get("folder_or_id"):
            check_path(structured)
        if field.validator is not None:
            _validate(field, structured)
        return structured

    return structure_field


def _validate(field: Any, value: Any) -> None:
    try:
        field.validator(None, field, value)
    except (ValueError, TypeError) as error:
        text = str(error.args[0]) if error.args else str(error)
        rule, colon, _ = text.removeprefix(f"'{field.name}' ").rpartition(": ")
        raise ValueError(f"{rule}, got {_shown(value)}" if colon and text.startswith("'") else text) from None
    except Exception as error:  # a KeyError would be taken for a missing key
        raise ValueError(f"cannot be checked: {type(error).__name__}: {error}") from error


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for cls in _NAMES:
        converter.register_structure_hook(cls, _scalar(cls))
    table = _checked(Mapping, "a table", _class_factory)
    converter.register_structure_hook_factory(attrs.has, table)
    converter.register_structure_hook_factory(is_mapping, _checked(Mapping, "a table", mapping_structure_factory))
    converter.register_structure_hook_factory(_is_list, _checked(list, "a list", list_structure_factory))
    converter.register_structure_hook_factory(_is_tuple, _checked(list, "a list", homogenous_tuple_structure_factory))
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_func(_is_union, _structure_union)
    return converter


def _is_literal(cls: Any) -> bool:
    return get_origin(cls) is Literal


def _is_list(cls: Any) -> bool:
    return (get_origin(cls) or cls) in (list, Sequence)


def _is_tuple(cls: Any) -> bool:
    return (get_origin(cls) or cls) is tuple


def _is_union(cls: Any) -> bool:
    return get_origin(cls) in (Union, UnionType)


_CONVERTER = _make_converter()
