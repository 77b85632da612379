"""Say, without importing anything heavy, which optional package a plugin lacks."""

from __future__ import annotations

from importlib.util import find_spec

from ftcore.api import Problem


def missing(plugin: str, extra: str, *modules: str) -> list[Problem]:
    """One problem if any of the modules cannot be found, with the command that installs the extra."""
    absent = [name for name in modules if not _found(name)]
    if not absent:
        return []
    message = f"{', '.join(absent)} not installed; run: pip install 'ftcore[{extra}]'"
    return [Problem(key=f"plugin.{plugin}", message=message)]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # the parent package is absent, or the module is half loaded
        return False
