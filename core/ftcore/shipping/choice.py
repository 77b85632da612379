"""Which plugins export and publish, and what a command line says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

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

    Raises `ProfileError` for a plugin that is not installed or ships nothing, or when none of them has that option.
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
    """`--set` for each plugin that has the option: a list, or a word where it takes one only."""
    if not wanted:
        return
    fields = {name: _option(installed, name) for name in names}
    having = {name: field for name, field in fields.items() if field is not None}
    if not having:
        raise ProfileError(f"--quantization: {', '.join(names)} has no option of that name")
    for name, field in having.items():
        always = get_origin(field.type) is tuple
        takes_list = always or any(get_origin(kind) is tuple for kind in get_args(field.type))
        if not takes_list and len(wanted) > 1:
            raise ProfileError(f"--quantization: {name} takes one at a time")
        value = list(wanted) if always or len(wanted) > 1 else wanted[0]
        yield f"plugin.{name}.{QUANTIZATION}={json.dumps(value)}"


def _option(installed: Installed, name: str) -> Any:
    fields = attrs.fields(config_class(installed.find(name).load()))
    return next((field for field in fields if field.name == QUANTIZATION), None)


def _ships(installed: Installed, name: str) -> bool:
    return bool({"export", "publish"}.intersection(_hooks(installed, name)))


def _hooks(installed: Installed, name: str) -> list[str]:
    return implemented_hooks(installed.find(name).load())
