"""Which plugin fills a slot of the run. Fallbacks are the implementations marked `trylast`."""

from __future__ import annotations

import pluggy

from ftcore.errors import Problem
from ftcore.hookspecs import Kind, hook_kinds

SLOTS = (Kind.EXACTLY_ONE, Kind.AT_MOST_ONE)

GOES_WITH = {"sketch_model": "load_model"}
"""Slots that no fallback keeps for itself: it would sketch another model than the named plugin loads."""


def conflicts(manager: pluggy.PluginManager) -> list[Problem]:
    """Slots that two plugins fill, and slots that must be filled and are not."""
    problems = []
    for hook in _slots():
        impls = _fillers(manager, hook)
        named = [impl.plugin_name for impl in impls if not impl.trylast]
        if len(named) > 1:
            text = f"{hook} is implemented by {' and '.join(named)}; keep one"
            problems.append(Problem(message=text, key=f"plugin.{named[-1]}"))
        if not named and len(impls) > 1:
            fallbacks = " and ".join(sorted(impl.plugin_name for impl in impls))
            text = f"{hook} has the fallbacks {fallbacks}; name one of them in the profile"
            problems.append(Problem(message=text, key="plugin"))
        if not impls and hook_kinds()[hook] is Kind.EXACTLY_ONE:
            problems.append(Problem(message=f"no plugin implements {hook}; switch one on that does", key="plugin"))
    return problems


def yields_all(manager: pluggy.PluginManager, fallback: str) -> bool:
    """Whether plugins that the profile names fill every slot of a fallback, or one that it goes with."""
    fillers = {hook: _fillers(manager, hook) for hook in _slots()}
    own = [hook for hook, impls in fillers.items() if any(impl.plugin_name == fallback for impl in impls)]
    filled = {hook for hook, impls in fillers.items() if any(not impl.trylast for impl in impls)}
    return bool(own) and all(hook in filled or GOES_WITH.get(hook) in filled for hook in own)


def _slots() -> list[str]:
    return [hook for hook, kind in hook_kinds().items() if kind in SLOTS]


def _fillers(manager: pluggy.PluginManager, hook: str) -> list[pluggy.HookImpl]:
    """Implementations of a slot, first called first; wrappers fill none."""
    impls = reversed(getattr(manager.hook, hook).get_hookimpls())
    return [impl for impl in impls if not (impl.wrapper or impl.hookwrapper)]
