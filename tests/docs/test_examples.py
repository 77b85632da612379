"""The plugins and tests that the documentation shows work as they stand there."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pages import REPOSITORY, Block, blocks

from ftcore.testing import plugin_faults

PLUGINS = [block for block in blocks("python") if "Config = " in block.text]


def _module(text: str) -> types.ModuleType:
    module = types.ModuleType("shown")
    sys.modules["shown"] = module  # attrs resolves the types of a Config in its module
    exec(compile(text, "shown.py", "exec"), vars(module))
    return module


@pytest.mark.parametrize("block", PLUGINS, ids=str)
def test_plugin_fits(block: Block) -> None:
    classes = [
        value for value in vars(_module(block.text)).values() if inspect.isclass(value) and "Config" in vars(value)
    ]
    assert [plugin_faults(cls) for cls in classes] == [[]]


def test_shown_tests_pass(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "plugins.md"
    (plugin,) = [block for block in PLUGINS if block.page == page]
    (tests,) = [block for block in blocks("python") if block.page == page and "def test_" in block.text]
    module = _module(f"{plugin.text}\n{tests.text}")
    names = [node.name for node in ast.parse(tests.text).body if isinstance(node, ast.FunctionDef)]
    assert len(names) == 3
    for name in names:
        function: Any = getattr(module, name)
        function(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(function).parameters else {}))


def test_acme_readme_names_its_plugins() -> None:
    import tomllib

    folder = REPOSITORY / "examples" / "ftcore-acme"
    points = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["ftcore.plugins"]
    text = (folder / "README.md").read_text("utf-8")
    assert all(f"| `{name}` |" in text for name in points)
