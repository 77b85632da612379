"""Rows from real Python functions: the standard library's own, read as text and never imported."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import gc
import hashlib
import itertools
import os
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from ftcore.api import Problem, Row, Run, RunError, hookimpl, option
from ftcore_plugins.common.source import parse_python

MODULES_CHECKED = 64
"""Names that `check` looks up: to find the nearest of a wrong one takes a millisecond or two."""

FUNCTIONS_A_ROUND = 8
"""Functions that one module gives before the next module has its turn."""

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data", "site-packages"}
    | {"dist-packages", "test", "tests", "turtledemo"}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen(kw_only=True)
class Options:
    """`[plugin.python_functions]`."""

    modules: tuple[str, ...] = option(
        (), help="modules and packages of the standard library to read, such as json or json.decoder; all if empty"
    )
    limit: int = option(1000, at_least=1, help="most rows to make, spread over the modules")
    min_lines: int = option(2, at_least=1, help="fewest lines of a function, without its docstring")
    max_lines: int = option(40, at_least=1, help="most lines of a function, without its docstring")
    deduplicate: bool = option(True, help="leave out a function whose code equals an earlier one's")


@attrs.frozen(kw_only=True)
class _Found:
    """A function with a docstring, and where it stands."""

    node: Function
    owner: str
    path: Path
    module: str
    lines: Sequence[str]


class PythonFunctions:
    """Row source: `instruction` (signature and docstring), `output` (the code without it), `name`, `module`.

    Reads functions and methods of the running interpreter's standard library with `ast`. The same
    interpreter and options give the same rows in the same order.
    """

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The options fit together, and every module is one with Python source."""
        if not library().is_dir():
            return [_problem("modules", f"this Python has no standard library as files at {library()}; install one")]
        named = itertools.islice(dict.fromkeys(self.config.modules), MODULES_CHECKED)
        problems = [_problem("modules", fault) for name in named if (fault := _module_fault(name))]
        if self.config.min_lines > self.config.max_lines:
            limits = f"{self.config.min_lines} is over max_lines, {self.config.max_lines}; no function fits, lower it"
            problems.append(_problem("min_lines", limits))
        return problems

    @hookimpl
    def load_rows(self, run: Run) -> Sequence[Row]:
        """Pick functions, `data.max_rows` of them at most. Raises `RunError` if none fits the options."""
        limit = min(self.config.limit, run.profile.data.max_rows or self.config.limit)
        with _collector_paused():
            rows = self._rows(limit)
        if not rows:
            raise RunError("plugin.python_functions: no function fits modules, min_lines and max_lines; widen them")
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def _rows(self, limit: int) -> list[tuple[tuple[str, int], Row]]:
        rows: list[tuple[tuple[str, int], Row]] = []
        seen: set[str] = set()
        for found in _in_turns(_files(self.config.modules)):
            if len(rows) >= limit:
                break
            code = _code_without_docstring(found)
            if not self.config.min_lines <= code.count("\n") + 1 <= self.config.max_lines:
                continue
            tree = parse_python(code)
            normal = "" if tree is None else ast.dump(tree)
            # A docstring that shares its line with code, or a dedent inside a string, shows as another syntax tree.
            if normal != ast.dump(_without_docstring(found.node)) or normal in seen:
                continue
            if self.config.deduplicate:
                seen.add(normal)
            place = found.path.relative_to(library()).as_posix()
            rows.append(((place, found.node.lineno), _row(found, code, f"{place}:{found.node.lineno}")))
        return rows


@functools.cache
def library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


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


def _problem(key: str, message: str) -> Problem:
    return Problem(message=message, key=f"plugin.python_functions.{key}")


def _module_fault(name: str) -> str:
    if _paths_of(name):
        return ""
    if name in sys.stdlib_module_names:
        return f"{name} has no Python source to read: it is part of the interpreter; leave it out"
    known = _known_names() if "." not in name else [_module_name(path) for path in _files((name.partition(".")[0],))]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "name one that `import` finds, such as json"
    return f"no module {name!r} in the standard library; {hint}"


def _known_names() -> list[str]:
    return sorted(name for name in sys.stdlib_module_names if _paths_of(name))


def _paths_of(name: str) -> list[Path]:
    """Source files of a module, or of a package and all below it; empty if there is no such source."""
    if not all(part.isidentifier() for part in name.split(".")):
        return []
    base = library().joinpath(*name.split("."))
    if (base / "__init__.py").is_file():
        return _below(base)
    return [base.with_suffix(".py")] if base.with_suffix(".py").is_file() else []


def _below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]  # walk does not enter the others
        files += [Path(parent, name) for name in names if name.endswith(".py")]
    return sorted(files)


def _files(modules: tuple[str, ...]) -> list[Path]:
    if not modules:
        return _below(library())
    return sorted({path for name in modules for path in _paths_of(name)})


def _module_name(path: Path) -> str:
    parts = path.relative_to(library()).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _in_turns(files: Sequence[Path]) -> Iterator[_Found]:
    """Functions of all files, a few of each in turn. Files are parsed only when their turn comes."""
    # Ordered by a hash of the name, so that few rows are not all from the modules that begin with "a".
    order = sorted(files, key=lambda path: hashlib.sha256(_module_name(path).encode()).digest())
    waiting = [_functions(path) for path in order]
    while waiting:
        still = []
        for functions in waiting:
            taken = [found for found, _ in zip(functions, range(FUNCTIONS_A_ROUND), strict=False)]
            yield from taken
            if len(taken) == FUNCTIONS_A_ROUND:
                still.append(functions)
        waiting = still


def _functions(path: Path) -> Iterator[_Found]:
    """Module-level functions and methods of module-level classes that have a docstring, top to bottom."""
    source = _read(path)
    tree = None if source is None else parse_python(source)
    if source is None or tree is None:
        return
    lines, module = source.split("\n"), _module_name(path)
    for node in tree.body:
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        for member in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(member, Function) and ast.get_docstring(member):
                yield _Found(node=member, owner=owner, path=path, module=module, lines=lines)


def _read(path: Path) -> str | None:
    try:
        with tokenize.open(path) as file:  # honours the file's coding line
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _code_without_docstring(found: _Found) -> str:
    """The function's lines, dedented, without those of its docstring."""
    node, docstring = found.node, found.node.body[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    head = found.lines[first - 1 : docstring.lineno - 1]
    tail = found.lines[docstring.end_lineno or docstring.lineno : node.end_lineno]
    while tail and not tail[0].strip():
        tail = tail[1:]
    return textwrap.dedent("\n".join([*head, *tail])).rstrip()


def _without_docstring(node: Function) -> ast.Module:
    fields = {name: value for name, value in ast.iter_fields(node) if name != "body"}
    return ast.Module(body=[type(node)(**fields, body=node.body[1:])], type_ignores=[])


def _row(found: _Found, code: str, origin: str) -> Row:
    node = found.node
    paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    signature = f"`{node.name}({ast.unparse(node.args)}){returns}`"
    what = f"method {signature} of the class `{found.owner}`" if found.owner else f"function {signature}"
    instruction = f"Write the Python {kind}{what}. {' '.join(paragraph.split())}"
    values = {"instruction": instruction, "output": code, "name": node.name, "module": found.module}
    return Row(values=values, origin=origin)
