"""Builds the plugins of one run: registered in profile order, and guarded."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import pluggy

from ftcore.discovery import Source
from ftcore.errors import PluginError, Problem
from ftcore.hookspecs import PROJECT, Hooks, Kind, hook_kinds
from ftcore.isolation import Observer, Report, Traced, name_failures, name_wrapper_failures, trace
from ftcore.plugins import Active, Plugins
from ftcore.slots import conflicts, yields_all


class _Manager(pluggy.PluginManager):
    """Calls plugins in profile order, fallbacks last, whatever their marks say."""

    def __init__(self, fallbacks: Container[type[Any]]) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(Hooks)
        self._fallbacks = fallbacks

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """See pluggy: the options that a method was marked with."""
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None:
            return None
        return {**options, "tryfirst": False, "trylast": type(plugin) in self._fallbacks}


def build_plugins(
    active: Sequence[Active], *, report: Report, record: Callable[[Traced], None] | None = None
) -> tuple[Plugins, list[Problem]]:
    """Register `active`, first plugin first, and find slots with no filler or too many.

    Raises `PluginError` when a plugin cannot be built.
    """
    fallbacks = {plugin.source.name for plugin in active if plugin.fallback}
    manager = _Manager({plugin.cls for plugin in active if plugin.fallback})
    for plugin in reversed(active):  # pluggy calls the last one registered first
        _register(manager, plugin)
    sources = {plugin.source.name: plugin.source for plugin in active}
    for name in [name for name in fallbacks if yields_all(manager, name)]:
        manager.unregister(name=name)  # it is not asked to check what is not its business
    problems = conflicts(manager)
    _guard(manager, sources, report, record)
    return Plugins(manager, active), problems


def _register(manager: pluggy.PluginManager, plugin: Active) -> None:
    try:
        instance = plugin.cls(plugin.config) if hasattr(plugin.cls, "Config") else plugin.cls()
        manager.register(instance, name=plugin.source.name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {plugin.source} cannot be built: {type(error).__name__}: {error}") from error


def _guard(
    manager: pluggy.PluginManager,
    sources: Mapping[str, Source],
    report: Report,
    record: Callable[[Traced], None] | None,
) -> None:
    """Put every implementation behind its guard; pluggy calls `HookImpl.function`."""
    observers = {name: Observer(source, report) for name, source in sources.items()}
    for hook, kind in hook_kinds().items():
        for impl in getattr(manager.hook, hook).get_hookimpls():
            source = sources[impl.plugin_name]
            if impl.wrapper or impl.hookwrapper:
                impl.function = name_wrapper_failures(source, hook, impl.function)
                continue
            if record is not None:
                impl.function = trace(source, hook, impl.function, record)
            if kind is Kind.OBSERVERS:
                impl.function = observers[impl.plugin_name].guard(hook, impl.function)
            else:
                impl.function = name_failures(source, hook, impl.function)
