"""The normal form of code: one for all functions that differ in nothing but how they are written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator

from ftcore_plugins.common.source import parse_python

__all__ = ["normal_form"]

UNSEEN_FIELDS = frozenset({"annotation", "ctx", "kind", "returns", "type_comment"})

FREE_TEXT = (ast.Attribute, ast.Constant, ast.ImportFrom, ast.MatchClass, ast.alias, ast.keyword)
"""Nodes whose strings are no names of variables."""


def normal_form(code: str) -> bytes:
    """A digest of `code`, blind to how it is written. Raises `ValueError` if it is not valid Python.

    It does not see layout, comments, docstrings and annotations, nor how functions, parameters and local
    variables are called. The names of attributes, keywords and everything global count.
    """
    tree = parse_python(code)
    if tree is None:
        raise ValueError("the code is not valid Python")
    return hashlib.sha256("\n".join(_words(tree)).encode()).digest()


def _words(tree: ast.Module) -> Iterator[str]:
    numbers: dict[str, int] = {}
    bound = _bound_names(tree)
    waiting: list[object] = [tree]
    while waiting:  # without recursion, for expressions nest deeper than Python calls
        value = waiting.pop()
        if isinstance(value, ast.AST):
            yield type(value).__name__
            waiting += _children(value)
        elif isinstance(value, list):
            seen = [item for item in value if not _is_docstring(item)]
            yield f"list of {len(seen)}"
            waiting += seen
        elif isinstance(value, _Name) and value in bound:
            yield f"variable {numbers.setdefault(value, len(numbers))}"
        else:
            yield hex(value) if type(value) is int else repr(value)  # Python writes no long int as a decimal


class _Name(str):
    """A string that stands where a variable's name can."""

    __slots__ = ()


def _children(node: ast.AST) -> Iterator[object]:
    for field in node._fields:
        value = getattr(node, field, None)
        if field not in UNSEEN_FIELDS:
            yield _Name(value) if isinstance(value, str) and not isinstance(node, FREE_TEXT) else value


def _is_docstring(item: object) -> bool:
    """A string as a statement does nothing, wherever it stands."""
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


def _bound_names(tree: ast.Module) -> set[str]:
    """Names of functions, parameters and variables that are not global."""
    bound: set[str] = set()
    elsewhere: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Global(names=names):
                elsewhere.update(names)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
    return bound - elsewhere
