"""Which plugins are installed, from entry-point metadata alone; a plugin is imported when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs

from ftcore.errors import PluginError
from ftcore.fitting import misfits

PLUGINS = "ftcore.plugins"
FALLBACKS = "ftcore.fallbacks"


@attrs.frozen(kw_only=True)
class NoOptions:
    """The `Config` of a plugin that has none."""


@attrs.frozen(kw_only=True)
class Source:
    """One installed plugin that has not been imported."""

    name: str
    target: str
    distribution: str
    version: str
    entry_point: EntryPoint = attrs.field(eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"

    def load(self) -> type[Any]:
        """Import the plugin's class. Raises `PluginError` for one that is broken or fits no hooks, with the cause."""
        try:
            cls = self.entry_point.load()
        except (Exception, SystemExit) as error:
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"plugin {self} cannot be imported from {self.target}: {cause}") from error
        if not isinstance(cls, type) or not attrs.has(config_class(cls)):
            raise PluginError(
                f"plugin {self}: {self.target} must be a class whose Config is an attrs class; see docs/plugins.md"
            )
        try:
            attrs.resolve_types(config_class(cls))
        except (NameError, TypeError) as error:
            raise PluginError(f"plugin {self}: its Config cannot be read: {error}") from error
        faults = "; ".join(misfits(cls))
        if faults:
            raise PluginError(f"plugin {self} {faults}")
        return cls


@attrs.frozen(kw_only=True)
class Installed:
    """Every installed plugin. A name that two distributions claim has several sources."""

    sources: tuple[Source, ...]
    fallbacks: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Every name once, sorted."""
        return sorted({source.name for source in self.sources})

    def find(self, name: str) -> Source:
        """The one plugin of that name. Raises `PluginError` when several distributions claim it."""
        found = [source for source in self.sources if source.name == name]
        if len(found) > 1:
            claims = " and ".join(f"{source.distribution} {source.version}" for source in found)
            raise PluginError(f"plugin {name} is claimed by {claims}; uninstall one of them")
        return found[0]


def discover() -> Installed:
    """Read the metadata of every installed distribution."""
    fallbacks = {source.name: source for source in _sources(entry_points(group=FALLBACKS))}
    return Installed(sources=tuple(_sources(entry_points(group=PLUGINS))), fallbacks=tuple(fallbacks))


def config_class(cls: type[Any]) -> type[Any]:
    """The class of a plugin's options."""
    return getattr(cls, "Config", NoOptions)


def _sources(points: Iterable[EntryPoint]) -> list[Source]:
    found = {}
    for point in points:
        name, version = _distribution(point)
        source = Source(name=point.name, target=point.value, distribution=name, version=version, entry_point=point)
        found[(point.name, name)] = source
    return sorted(found.values(), key=lambda source: (source.name, source.distribution))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version. One whose metadata are gone has none; `importlib_metadata`, once imported, raises instead."""
    try:
        return (point.dist.name, point.dist.version) if point.dist else ("unknown distribution", "?")
    except FileNotFoundError:
        return "unknown distribution", "?"
