"""Plugins that no profile names, with the options that they have then."""

from __future__ import annotations

from collections.abc import Callable

from ftcore.discovery import Installed, Source, config_class
from ftcore.errors import PluginError
from ftcore.plugins import Active, implemented_hooks
from ftcore.structure import structure


def with_defaults(
    installed: Installed, name: str, skip: Callable[[str], None], *, fallback: bool = False
) -> Active | None:
    """A plugin with its defaults; None, and why, for one that is broken or has an option without one."""
    try:
        source: Source = installed.find(name)
        cls = source.load()
    except PluginError as error:
        skip(str(error))
        return None
    config, mistakes = structure(config_class(cls), {}, ("plugin", name))
    if mistakes:
        if "verify" in implemented_hooks(cls):
            key, text = mistakes[0]
            skip(f"{name} is not asked: {'.'.join(key)}: {text}")
        return None
    return Active(source=source, cls=cls, config=config, fallback=fallback)
