"""What is wrong with the names in `modules` and `packages`, each in one sentence."""

from __future__ import annotations

import difflib
import importlib.metadata
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ftcore_plugins.python_functions.places import EVERY, INIT, installed, origin_of, resolve, spec_of

__all__ = ["module_fault", "package_fault"]


def module_fault(name: str, tops: Mapping[str, Path]) -> str:
    """Why `name` gives no source; empty if it does. `tops` are the top-level names to read from."""
    head = name.partition(".")[0]
    if resolve(name, tops):
        return ""
    if name in sys.stdlib_module_names:
        return f"{name} has no Python source to read: it is part of the interpreter; leave it out"
    if head not in tops and _has_source(head):
        return f"{head} is not in the standard library; name it in packages too"
    known = [source.module for source in resolve(head, tops)] if "." in name else tops
    close = _nearest(name, known) or "name one that `import` finds, such as json"
    return f"no module {name!r} in the standard library or packages; {close}"


def package_fault(name: str, modules: Collection[str]) -> str:
    """Why the package `name` gives no source; empty if it does. `modules` are those to read, all if empty."""
    if name == EVERY:
        return ""
    if name in sys.stdlib_module_names:
        return f"{name} is in the standard library, which needs no naming here; leave it out"
    if not _is_there(name):
        close = _whole_of(name) or _imported_as(name) or _nearest(name, installed())
        return f"no installed package is imported as {name!r}; {close or 'install it, or leave it out'}"
    if not _has_source(name):
        kind = "compiled" if origin_of(name) else "a namespace of other packages"
        return f"{name} has no Python source to read: it is {kind}; leave it out"
    if modules and not any(module.partition(".")[0] == name for module in modules):
        return f"nothing of {name} would be read, since modules names none of it; add {name} to modules"
    return ""


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _is_there(name: str) -> bool:
    return spec_of(name) is not None


def _has_source(name: str) -> bool:
    path = origin_of(name)
    return path is not None and path.suffix == ".py" and not _is_shell(path)


def _is_shell(path: Path) -> bool:
    """One `__init__.py` around extension modules, with no code to speak of."""
    if path.name != INIT or any(other != path for other in path.parent.rglob("*.py")):
        return False
    return any(entry.name.endswith(tuple(EXTENSION_SUFFIXES)) for entry in path.parent.iterdir())


def _whole_of(name: str) -> str:
    """For one who names a part of a package, such as torch.nn."""
    head = name.partition(".")[0]
    return f"write {head} here and {name} in modules" if head != name and _has_source(head) else ""


def _imported_as(name: str) -> str:
    """For one who names a distribution, such as scikit-learn, and not what it is imported as."""
    try:
        files = importlib.metadata.distribution(name).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""
    tops = sorted({file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"})
    public = [top for top in tops if not top.startswith("_") and _has_source(top)]
    return f"write {public[0]}" if public else ""
