"""docs/hooks.md lists every hook, in calling order, with its kind and its exact signature."""

from __future__ import annotations

import ast
import inspect
import re

import pytest
from pages import REPOSITORY

from ftcore.hookspecs import Hooks, hook_kinds

PAGE = (REPOSITORY / "docs" / "hooks.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_every_hook_in_calling_order() -> None:
    assert list(SECTIONS) == list(hook_kinds())


def test_the_order_of_a_run_names_every_hook() -> None:
    order = PAGE.partition("## The order of a run")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert (
        list(dict.fromkeys(re.findall(r"`(\w+)`", order.replace("*judged again, with `score`*", "")))) == _run_order()
    )


@pytest.mark.parametrize("name", hook_kinds())
def test_kind(name: str) -> None:
    assert f"\nKind: {hook_kinds()[name]}\n" in SECTIONS[name]


@pytest.mark.parametrize("name", hook_kinds())
def test_signature(name: str) -> None:
    shown = re.search(r"```python\n(def .*?)```", SECTIONS[name], re.DOTALL)
    assert shown, f"no signature of {name}"
    assert _written(shown[1]) == _written(f"def {name}{_signature(name)}: ...")


@pytest.mark.parametrize("name", hook_kinds())
def test_example_names_arguments_of_the_hook(name: str) -> None:
    (example,) = [text for text in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL) if "@hookimpl" in text]
    (function,) = [node for node in ast.parse(example).body if isinstance(node, ast.FunctionDef)]
    assert function.name == name
    given = {argument.arg for argument in function.args.args}
    assert given <= set(inspect.signature(getattr(Hooks, name)).parameters)


def _run_order() -> list[str]:
    """The hooks as a run calls them: `score` is first asked before training."""
    names = [name for name in hook_kinds() if name != "score"]
    return [*names[: names.index("track")], "score", *names[names.index("track") :]]


def _signature(name: str) -> str:
    signature = inspect.signature(getattr(Hooks, name))
    arguments = [
        parameter.name if parameter.annotation is parameter.empty else f"{parameter.name}: {parameter.annotation}"
        for parameter in signature.parameters.values()
    ]
    return f"({', '.join(arguments)}) -> {signature.return_annotation}"


def _written(source: str) -> str:
    """A function's first line in one spelling."""
    return ast.unparse(ast.parse(source))
