"""Read Python source without running it, and without its warnings."""

from __future__ import annotations

import ast
import warnings

__all__ = ["parse_python"]


def parse_python(source: str) -> ast.Module | None:
    """The syntax tree of `source`, or None if it is not valid Python of this interpreter's version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in a row is the row's business, not a line on the screen
        try:
            return ast.parse(source)
        # Text from anywhere: NUL bytes and surrogates are ValueErrors, deep nesting ends in the last two.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
