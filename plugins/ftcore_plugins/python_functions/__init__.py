"""Rows from real Python functions: of the standard library and installed packages, read and never imported."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator, Sequence

import attrs

from ftcore.api import Problem, Row, Run, RunError, hookimpl, option
from ftcore_plugins.python_functions.extraction import Pair, pairs_in_turns
from ftcore_plugins.python_functions.faults import module_fault, package_fault
from ftcore_plugins.python_functions.normal import normal_form
from ftcore_plugins.python_functions.places import library, sources, top_levels

__all__ = ["Options", "PythonFunctions"]

NAMES_CHECKED = 64
"""Of a list that `check` looks up: to find the nearest of a wrong one takes a millisecond or two."""


@attrs.frozen(kw_only=True)
class Options:
    """`[plugin.python_functions]`."""

    modules: tuple[str, ...] = option(
        (), help="modules and packages to read, such as json or torch.nn; if empty, all of the library and of packages"
    )
    packages: tuple[str, ...] = option(
        (), help="installed packages to read besides the standard library, by import name; * for all of them"
    )
    limit: int = option(1000, at_least=1, help="most rows to make, spread over the modules")
    min_lines: int = option(2, at_least=1, help="fewest lines of a function, without its docstring")
    max_lines: int = option(40, at_least=1, help="most lines of a function, without its docstring")
    deduplicate: bool = option(
        True,
        help="leave out a function with the instruction of another, or with its code but for layout, comments, "
        "docstrings, annotations and the names of itself, its parameters and its local variables",
    )


class PythonFunctions:
    """Row source: `instruction` (signature and docstring), `output` (the code without it), `name`, `module`.

    Reads functions and methods of the running interpreter's standard library, and of installed packages, with
    `ast`; none is imported. Tests, vendored copies, functions that do nothing or only call their parent's, and
    those whose docstring begins with fewer than three words are left out. The same interpreter, packages and
    options give the same rows in the same order. With `data.group = "module"` whole modules are held out.
    """

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The options fit together, and every module and package is one with Python source."""
        if not library().is_dir():
            return [_problem("modules", f"this Python has no standard library as files at {library()}; install one")]
        config = self.config
        tops = top_levels(config.packages)
        faults = [("packages", package_fault(name, config.modules)) for name in _first(config.packages)]
        faults += [("modules", module_fault(name, tops)) for name in _first(config.modules)]
        if config.min_lines > config.max_lines:
            limits = f"{config.min_lines} is over max_lines, {config.max_lines}; no function fits, lower it"
            faults.append(("min_lines", limits))
        return [_problem(key, fault) for key, fault in faults if fault]

    @hookimpl
    def load_rows(self, run: Run) -> Sequence[Row]:
        """Pick functions, `data.max_rows` of them at most. Raises `RunError` if none fits the options."""
        limit = min(self.config.limit, run.profile.data.max_rows or self.config.limit)
        with _collector_paused():
            pairs = list(itertools.islice(self._pairs(), limit))
        if not pairs:
            raise RunError("plugin.python_functions: no function fits modules, min_lines and max_lines; widen them")
        return [pair.row for pair in sorted(pairs, key=lambda pair: pair.place)]

    def _pairs(self) -> Iterator[Pair]:
        config = self.config
        lines = range(config.min_lines, config.max_lines + 1)
        pairs = pairs_in_turns(sources(config.modules, config.packages), lines)
        return _without_twins(pairs) if config.deduplicate else pairs


def _without_twins(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Each task and each code once: the first in turn stays."""
    seen: set[bytes | str] = set()
    for pair in pairs:
        twins = {normal_form(pair.row.values["output"]), pair.row.values["instruction"]}
        if seen.isdisjoint(twins):
            yield pair
            seen |= twins


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Half of the time would go into looking for cycles among the syntax trees' nodes, which have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first(names: Sequence[str]) -> Iterator[str]:
    return itertools.islice(dict.fromkeys(names), NAMES_CHECKED)


def _problem(key: str, message: str) -> Problem:
    return Problem(message=message, key=f"plugin.python_functions.{key}")
