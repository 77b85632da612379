"""Functions out of Python source files: the task that a docstring sets, and the code without it."""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from ftcore.api import Row
from ftcore_plugins.common.source import parse_python
from ftcore_plugins.python_functions.places import Source

__all__ = ["Pair", "pairs_in_turns"]

FUNCTIONS_A_ROUND = 8
"""Functions that one module gives before the next module has its turn."""

FEWEST_WORDS = 3
"""Of a docstring's first paragraph; fewer, such as "See base class.", do not say what to write."""

NO_TASK = re.compile(r">>>|\.\. |:\w+|(?:Args|Arguments|Parameters|Inputs?|Returns?|Yields|Raises|Examples?)(?::| --)")
"""How a first paragraph begins that is a section and says nothing of what the function does."""

LONG_STRING = re.compile(r"\"\"\"|'''|\\$", re.MULTILINE)
"""What a string over several lines cannot do without."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen(kw_only=True)
class Pair:
    """A function as a row, and the place of its file and its line there."""

    row: Row
    place: tuple[str, int]


def pairs_in_turns(sources: Sequence[Source], lines: range) -> Iterator[Pair]:
    """Functions with so many lines, a few of each source in turn. Files are read only when their turn comes."""
    # Ordered by a hash of the name, so that few rows are not all from the modules that begin with "a".
    order = sorted(sources, key=lambda source: hashlib.sha256(source.module.encode()).digest())
    waiting = [_pairs(source, lines) for source in order]
    while waiting:
        still = []
        for pairs in waiting:
            taken = list(itertools.islice(pairs, FUNCTIONS_A_ROUND))
            yield from taken
            if len(taken) == FUNCTIONS_A_ROUND:
                still.append(pairs)
        waiting = still


def _pairs(source: Source, lines: range) -> Iterator[Pair]:
    text = _read(source.path)
    if text is not None:
        # As a list: what waits for its next turn is then text, where the syntax trees would take gigabytes.
        yield from list(_pairs_of_text(source, text, lines))


def _pairs_of_text(source: Source, text: str, lines: range) -> Iterator[Pair]:
    tree, text_lines = parse_python(text), text.split("\n")
    for owner, node in [] if tree is None else _documented(tree):
        code = _code_without_docstring(node, text_lines)
        if code.count("\n") + 1 not in lines or _is_trivial(node.body[1:]):
            continue
        try:
            task = _task(node, owner) if _is_code_of(node, code) else ""
        except (RecursionError, ValueError):  # nested too deep, or a number too long, to be written as text
            continue
        if task:
            place = (source.place, node.lineno)
            values = {"instruction": task, "output": code, "name": node.name, "module": source.module}
            yield Pair(row=Row(values=values, origin=f"{source.place}:{node.lineno}"), place=place)


def _read(path: Path) -> str | None:
    try:
        with tokenize.open(path) as file:  # honours the file's coding line
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _documented(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Module-level functions, and methods of module-level classes with the class's name, that say what they do."""
    for node in tree.body:
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        for member in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(member, Function) and _says_what_it_does(member):
                yield owner, member


def _says_what_it_does(node: Function) -> bool:
    paragraph = _first_paragraph(node)
    parameters = tuple(f"{argument.arg} (" for argument in [*node.args.args, *node.args.kwonlyargs])
    described = NO_TASK.match(paragraph) or paragraph.startswith(parameters)
    return paragraph.count(" ") + 1 >= FEWEST_WORDS and not described


def _first_paragraph(node: Function) -> str:
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _code_without_docstring(node: Function, lines: Sequence[str]) -> str:
    """The function's lines, dedented, without those of its docstring."""
    docstring = node.body[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    head = lines[first - 1 : docstring.lineno - 1]
    tail = lines[docstring.end_lineno or docstring.lineno : node.end_lineno]
    while tail and not tail[0].strip():
        tail = tail[1:]
    return textwrap.dedent("\n".join([*head, *tail])).rstrip()


def _is_code_of(node: Function, code: str) -> bool:
    """False if the docstring shared a line with code, which is lost with it, or if a string was dedented."""
    tree = parse_python(code)
    copy = tree.body[0] if tree is not None and tree.body else None
    if not isinstance(copy, Function) or len(copy.body) != len(node.body) - 1:
        return False
    fields = {name: value for name, value in ast.iter_fields(node) if name != "body"}
    return not LONG_STRING.search(code) or ast.dump(copy) == ast.dump(type(node)(**fields, body=node.body[1:]))


def _is_trivial(body: Sequence[ast.stmt]) -> bool:
    """Nothing to learn: placeholders alone, or one call of a method of the parent class."""
    return all(map(_is_placeholder, body)) or (len(body) == 1 and _is_call_of_parent(body[0]))


def _is_placeholder(statement: ast.stmt) -> bool:
    match statement:
        case (
            ast.Pass()
            | ast.Expr(value=ast.Constant())
            | ast.Return(value=ast.Name(id="NotImplemented"))
            | ast.Raise(exc=ast.Name(id="NotImplementedError"))
            | ast.Raise(exc=ast.Call(func=ast.Name(id="NotImplementedError")))
        ):
            return True
    return False


def _is_call_of_parent(statement: ast.stmt) -> bool:
    match statement:
        case ast.Return(value=value) | ast.Expr(value=value):
            call = value.value if isinstance(value, ast.Await) else value
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")))):
                    return True
    return False


def _task(node: Function, owner: str) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    signature = f"`{node.name}({ast.unparse(node.args)}){returns}`"
    what = f"method {signature} of the class `{owner}`" if owner else f"function {signature}"
    return f"Write the Python {kind}{what}. {_first_paragraph(node)}"
