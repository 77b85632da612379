"""Whether a class can be a plugin, found without building one: so every command says the same about it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pluggy

from ftcore.hookspecs import PROJECT, Hooks, Kind, hook_kinds
from ftcore.slots import SLOTS
from ftcore.structure import nearest


def misfits(cls: type[Any]) -> Iterator[str]:
    """What keeps `cls` from being a plugin, each as it follows its name."""
    manager = pluggy.PluginManager(PROJECT)
    manager.register(_unbuilt(cls))
    for hook, caller in vars(manager.hook).items():
        for impl in [] if hook.startswith("_") else caller.get_hookimpls():
            fault = _misfit(hook, hook_kinds().get(hook), impl)
            if fault:
                yield fault
    try:
        # A plugin without options has no Config, and then needs no constructor either.
        inspect.signature(cls).bind(*([None] if hasattr(cls, "Config") else []))
    except TypeError as error:
        given = "its Config alone" if hasattr(cls, "Config") else "nothing, as it has no Config"
        yield f"cannot be built: its constructor is given {given}: {error}"
    except ValueError:  # one that is written in C tells no arguments
        pass


def _unbuilt(cls: type[Any]) -> SimpleNamespace:
    """The marked methods, as if they were those of an instance."""
    marked = [name for name in dir(cls) if hasattr(getattr(cls, name, None), f"{PROJECT}_impl")]
    return SimpleNamespace(**{name: inspect.getattr_static(cls, name).__get__(cls, cls) for name in marked})


def _misfit(hook: str, kind: Kind | None, impl: pluggy.HookImpl) -> str:
    if kind is None:
        return "" if impl.optionalhook else f"implements an unknown hook {hook!r}{nearest(hook, hook_kinds())}"
    if impl.kwargnames:
        return f"gives {', '.join(impl.kwargnames)} a default in {hook}; hook arguments have none"
    _, *known = inspect.signature(getattr(Hooks, hook)).parameters
    unknown = [name for name in impl.argnames if name not in known]
    if unknown:
        return f"does not fit its hooks: {hook} has no argument {unknown[0]!r}{nearest(unknown[0], known)}"
    wraps = impl.wrapper or impl.hookwrapper
    if wraps and kind not in SLOTS:
        return f"wraps {hook}; only hooks that one plugin answers can be wrapped"
    if wraps and not inspect.isgeneratorfunction(impl.function):
        return f"wraps {hook} without a yield, at which the wrapped plugin is asked"
    return ""
