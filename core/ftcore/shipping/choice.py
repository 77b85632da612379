"""Which plugins export and publish, and what a command line says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import attrs

from ftcore.discovery import Installed, config_class, discover
from ftcore.errors import PluginError, ProfileError
from ftcore.manifest import Manifest
from ftcore.plugins import implemented_hooks
from ftcore.reopening import SHIPPING
from ftcore.structure import nearest

QUANTIZATION = "quantization"


@attrs.frozen(kw_only=True)
class Choice:
    """What is laid over a run's profile to export again. Only the plugins in `names` ship; None is all that are on."""

    names: frozenset[str] | None
    switch_on: tuple[str, ...]
    switch_off: tuple[str, ...]
    sets: tuple[str, ...]


def choose(manifest: Manifest, *, to: Sequence[str], quantization: Sequence[str]) -> Choice:
    """The plugins named in `to`, or those of the run's profile, with their `quantization`.

    Each quantization goes to those of them that know its name. Raises `ProfileError` for a plugin that is not installed
    or ships nothing, for a quantization that none of them knows, or when none of them has that option.
    """
    installed = discover()
    there = [name for name in manifest.settings.get("plugin", {}) if name in installed.names]
    shipping = [name for name in there if _ships(installed, name)]
    for name in to:
        _require_shipping(installed, name)
    names = [*dict.fromkeys(to)] or shipping
    if not names:
        raise ProfileError(f"the run's profile exports nothing; name a plugin with --to: {_those_that_ship(installed)}")
    others = [name for name in shipping if name not in names]
    return Choice(
        names=frozenset(names),
        switch_on=tuple(name for name in names if name not in there),
        switch_off=tuple(name for name in others if SHIPPING.issuperset(_hooks(installed, name))),
        sets=tuple(_quantizations(installed, names, quantization)),
    )


def _require_shipping(installed: Installed, name: str) -> None:
    if name not in installed.names:
        raise ProfileError(f"--to {name}: no such plugin{nearest(name, installed.names)}")
    if not _ships(installed, name):
        raise ProfileError(f"--to {name}: that exports nothing; those that do: {_those_that_ship(installed)}")


def _those_that_ship(installed: Installed) -> str:
    return ", ".join(_each_that_ships(installed))


def _each_that_ships(installed: Installed) -> Iterator[str]:
    for name in installed.names:
        try:
            ships = _ships(installed, name)
        except PluginError:  # one that is broken is told of when it is named
            continue
        if ships:
            yield name


def _quantizations(installed: Installed, names: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """`--set` for each plugin that knows one of these names: a list, or a word where it takes one only."""
    if not wanted:
        return
    fields = {name: _option(installed, name) for name in names}
    having = {name: field.type for name, field in fields.items() if field is not None}
    if not having:
        has = "has" if len(names) == 1 else "have"
        raise ProfileError(f"--quantization: {', '.join(names)} {has} no option of that name")
    _require_known(wanted, having)
    for name, kind in having.items():
        spelled = (_spelled(value, kind) for value in wanted)
        values = [*dict.fromkeys(value for value in spelled if value is not None)]
        if values:
            yield f"plugin.{name}.{QUANTIZATION}={json.dumps(_fitting(name, kind, values))}"


def _require_known(wanted: Sequence[str], having: Mapping[str, Any]) -> None:
    for value in wanted:
        if all(_spelled(value, kind) is None for kind in having.values()):
            admitted = {leaf for kind in having.values() for leaf in _leaves(kind) if leaf is not str}
            text = (
                f"--quantization {value}: {' and '.join(having)} {'knows' if len(having) == 1 else 'know'} no such type"
            )
            raise ProfileError(f"{text}{nearest(value.lower(), admitted)}")


def _spelled(value: str, kind: Any) -> str | None:
    """As the option writes it, `q4_k_m` for `Q4_K_M`; None if it is none of its names."""
    leaves = [*_leaves(kind)]
    known = {leaf.lower(): leaf for leaf in leaves if isinstance(leaf, str)}
    return known.get(value.lower(), value if str in leaves else None)


def _leaves(kind: Any) -> Iterator[Any]:
    """Every name that a type lists in a `Literal`, and `str` where it takes any."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind is str:
        yield str
    else:
        for part in get_args(kind):
            yield from _leaves(part)


def _fitting(name: str, kind: Any, values: list[str]) -> str | list[str]:
    always = get_origin(kind) is tuple
    takes_list = always or any(get_origin(part) is tuple for part in get_args(kind))
    if not takes_list and len(values) > 1:
        raise ProfileError(f"--quantization: {name} takes one at a time")
    return values if always or len(values) > 1 else values[0]


def _option(installed: Installed, name: str) -> Any:
    fields = attrs.fields(config_class(installed.find(name).load()))
    return next((field for field in fields if field.name == QUANTIZATION), None)


def _ships(installed: Installed, name: str) -> bool:
    return bool({"export", "publish"}.intersection(_hooks(installed, name)))


def _hooks(installed: Installed, name: str) -> list[str]:
    return implemented_hooks(installed.find(name).load())
