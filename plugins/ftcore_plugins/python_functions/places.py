"""Where Python source lies: the standard library and installed packages, found without importing them."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

import attrs

__all__ = [
    "EVERY",
    "INIT",
    "Source",
    "installed",
    "library",
    "origin_of",
    "resolve",
    "sources",
    "spec_of",
    "top_levels",
]

EVERY = "*"
"""In `packages`: all that is installed."""

INIT = "__init__.py"

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "turtledemo"}
    | {"_vendor", "_vendored", "vendor", "vendored"}  # another package's functions, often in another version
)
"""Folders of tests, of copies, and of what is no library."""


@attrs.frozen(kw_only=True)
class Source:
    """A source file and the dotted name of its module."""

    path: Path
    module: str

    @property
    def place(self) -> str:
        """The file's path below the folder that its package is in, such as json/decoder.py."""
        base = self.module.replace(".", "/")
        return f"{base}/{INIT}" if self.path.name == INIT else f"{base}.py"


@functools.cache
def library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def installed() -> dict[str, Path]:
    """Name and file of every installed top-level module and package with Python source."""
    folders = [Path(folder) for folder in sys.path if Path(folder).name in {"site-packages", "dist-packages"}]
    found: dict[str, Path] = {}
    for folder in reversed(folders):  # the first one on the path wins, as for `import`
        found |= _within(folder)
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def top_levels(packages: Iterable[str]) -> dict[str, Path]:
    """Name and file of the standard library's top-level modules and packages, and of those in `packages`."""
    found: dict[str, Path] = {}
    for name in packages:
        if name == EVERY:
            found |= installed()
        elif (path := origin_of(name)) is not None and path.suffix == ".py":
            found[name] = path
    return found | _within(library())


def spec_of(name: str) -> ModuleSpec | None:
    """What `import name` would find in this environment, whatever is loaded under that name already."""
    finders = sys.meta_path if name.isidentifier() else []
    specs = (finder.find_spec(name, None) for finder in finders)
    return next((spec for spec in specs if spec is not None), None)


def origin_of(name: str) -> Path | None:
    """The file that `import name` would run; none for what is not there, a namespace, or a dotted name."""
    spec = spec_of(name)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def resolve(name: str, tops: Mapping[str, Path]) -> list[Source]:
    """Source of a module, or of a package and all below it; empty if there is no such source."""
    path = _path_of(name, tops)
    if path is None:
        return []
    return list(_below(path.parent, name)) if path.name == INIT else [Source(path=path, module=name)]


def sources(modules: Iterable[str], packages: Iterable[str]) -> list[Source]:
    """Source of `modules`, or of all the standard library and `packages` if there are none."""
    tops = top_levels(packages)
    names = tuple(modules) or tuple(filter(_is_wanted, tops))
    return list({source.module: source for name in names for source in resolve(name, tops)}.values())


def _path_of(name: str, tops: Mapping[str, Path]) -> Path | None:
    head, *rest = name.split(".")
    top = tops.get(head)
    if top is None or not rest:
        return top
    if top.name != INIT or not all(part.isidentifier() for part in rest):
        return None
    base = top.parent.joinpath(*rest)
    return next(filter(_is_file, (base / INIT, base.with_suffix(".py"))), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long for the file system
        return False


def _within(folder: Path) -> dict[str, Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=os.DirEntry.is_dir)  # a package hides a module of its name, as for `import`
    except OSError:
        return {}
    paths = (Path(entry.path, INIT) if entry.is_dir() else Path(entry.path) for entry in entries)
    tops = {path.parent.name if path.name == INIT else path.stem: path for path in paths if path.suffix == ".py"}
    return {name: path for name, path in tops.items() if name.isidentifier() and _is_file(path)}


def _below(folder: Path, package: str) -> Iterator[Source]:
    for parent, folders, names in os.walk(folder):
        folders[:] = filter(_is_wanted, folders)  # walk does not enter the others
        dotted = ".".join([package, *Path(parent).relative_to(folder).parts])
        for path in (Path(parent, name) for name in names if name.endswith(".py")):
            if path.name == INIT:
                yield Source(path=path, module=dotted)
            elif _is_wanted(path.stem):
                yield Source(path=path, module=f"{dotted}.{path.stem}")


def _is_wanted(name: str) -> bool:
    """Neither a test nor a script; the name of a module or of a folder."""
    is_test = name.startswith("test_") or name.endswith("_test") or name == "conftest"
    return name.isidentifier() and not is_test and name not in SKIPPED_FOLDERS
