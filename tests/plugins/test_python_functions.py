from __future__ import annotations

import ast
import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import Row, RunError
from ftcore_plugins import python_functions
from ftcore_plugins.python_functions import Options, PythonFunctions, places
from ftcore_plugins.python_functions.places import library
from functions_kit import rows_of, run_of


def lines(row: Row) -> int:
    return str(row.values["output"]).count("\n") + 1


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own."""
    (tmp_path / "library").mkdir()
    monkeypatch.setattr(places, "library", lambda: tmp_path / "library")
    return tmp_path / "library"


def only(tree: Path, source: str, **options: Any) -> Row:
    (tree / "mod.py").write_text(source)
    [row] = rows_of(**{"min_lines": 1, **options})
    return row


def test_json_has_the_rows_that_it_should() -> None:
    rows = {row.values["name"]: row for row in rows_of(modules=("json",), max_lines=60)}
    dumps = rows["dumps"]
    assert dumps.values["module"] == "json"
    assert dumps.values["instruction"] == (
        "Write the Python function `dumps(obj, *, skipkeys=False, ensure_ascii=True, check_circular=True, "
        "allow_nan=True, cls=None, indent=None, separators=None, default=None, sort_keys=False, **kw)`. "
        "Serialize ``obj`` to a JSON formatted ``str``."
    )
    assert str(dumps.values["output"]).startswith("def dumps(obj, *, skipkeys=False")
    assert "Serialize" not in str(dumps.values["output"])
    file, line = dumps.origin.split(":")
    assert (library() / file).read_text().splitlines()[int(line) - 1].startswith("def dumps(")
    assert "method `raw_decode(self, s, idx=0)` of the class `JSONDecoder`." in rows["raw_decode"].values["instruction"]


def test_every_row_is_the_function_without_its_docstring() -> None:
    for row in rows_of(modules=("argparse", "asyncio", "collections"), limit=80):
        [function] = ast.parse(str(row.values["output"])).body
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert function.name == row.values["name"]
        file, line = row.origin.split(":")
        tree = ast.parse((library() / file).read_text())
        [original] = [
            node for node in ast.walk(tree) if node.__class__ is function.__class__ and node.lineno == int(line)
        ]
        original.body = original.body[1:]
        assert ast.dump(original) == ast.dump(function)


def test_rows_are_quick_ordered_and_spread_over_the_modules() -> None:
    start = time.process_time()
    rows = rows_of(limit=1000)
    assert time.process_time() - start < 5
    assert len(rows) == 1000
    assert len({row.values["module"] for row in rows}) > 100
    places = [(file, int(line)) for file, line in (row.origin.split(":") for row in rows)]
    assert places == sorted(places)


def test_the_garbage_collector_is_left_as_it_was(tree: Path) -> None:
    with pytest.raises(RunError):
        rows_of()
    assert gc.isenabled()


def test_a_second_interpreter_makes_the_same_rows() -> None:
    command = (
        "from ftcore_plugins.python_functions import *; from ftcore.api import *; import hashlib;"
        "from pathlib import Path;"
        "run = Run(name='x', folder=Path('x'), profile=Profile());"
        "rows = PythonFunctions(Options(limit=200)).load_rows(run);"
        "print(hashlib.sha256(repr([(r.origin, r.values) for r in rows]).encode()).hexdigest())"
    )
    answers = {
        subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(answers) == 1


def test_nothing_is_imported() -> None:
    rows_of(modules=("turtle", "antigravity", "this"), min_lines=1)
    assert not {"turtle", "antigravity", "this"} & set(sys.modules)


def test_option_modules() -> None:
    assert {row.values["module"] for row in rows_of(modules=("json.decoder",))} == {"json.decoder"}
    both = {row.values["module"] for row in rows_of(modules=("json", "textwrap"), max_lines=100)}
    assert both >= {"json", "json.decoder", "textwrap"}
    assert all(name.split(".")[0] in ("json", "textwrap") for name in both)


def test_tests_and_installed_packages_are_left_out() -> None:
    files = {row.origin.split("/")[0] for row in rows_of(limit=100_000)}
    assert not files & {"test", "idlelib", "lib2to3", "site-packages", "ensurepip"}


def test_option_limit() -> None:
    assert len(rows_of(limit=10)) == 10
    assert len({row.origin[0] for row in rows_of(limit=40)}) >= 4, "few rows are all from the modules of one letter"


def test_data_max_rows_limits_too() -> None:
    assert len(rows_of(run_of(max_rows=5), limit=10)) == 5
    assert len(rows_of(run_of(max_rows=50), limit=10)) == 10


def test_options_min_lines_and_max_lines() -> None:
    assert {lines(row) for row in rows_of(modules=("textwrap",), min_lines=5, max_lines=9)} <= set(range(5, 10))
    assert max(lines(row) for row in rows_of(modules=("textwrap",), max_lines=200)) > 40
    assert max(lines(row) for row in rows_of(modules=("textwrap",))) <= 40
    assert min(lines(row) for row in rows_of(modules=("subprocess",), min_lines=12)) >= 12


def test_option_deduplicate(tree: Path) -> None:
    twin = 'def f(a):\n    """{} of two."""\n    return a  # {}\n'
    (tree / "a.py").write_text(twin.format("The one", "one"))
    (tree / "b.py").write_text(twin.format("The other", "two"))
    assert len(rows_of()) == 1
    assert len(rows_of(deduplicate=False)) == 2


def test_a_method_is_dedented_and_keeps_its_decorators_and_comments(tree: Path) -> None:
    row = only(
        tree,
        "class A:\n    @staticmethod\n    # why\n    def f(x: int) -> str:\n"
        '        """Do just it.\n\n        Not this.\n        """\n\n        # because\n        return str(x)\n',
    )
    assert row.values["output"] == "@staticmethod\n# why\ndef f(x: int) -> str:\n    # because\n    return str(x)"
    assert row.values["instruction"] == "Write the Python method `f(x: int) -> str` of the class `A`. Do just it."
    assert row.origin == "mod.py:4"


def test_an_async_function_and_a_paragraph_of_lines(tree: Path) -> None:
    row = only(tree, 'async def f():\n    """One and\n    two.\n\n    three\n    """\n    return 1\n')
    assert row.values["instruction"] == "Write the Python async function `f()`. One and two."


SAY = '"""Say what this is."""'


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return 1\n",
        'def f():\n    """Say only what this is."""\n',
        'def f():\n    """ """\n    return 1\n',
        'def f(): """Say what this is."""; return 1\n',
        'def f():\n    """Say what this is."""; return 1\n',
        'class A:\n    def f(self):\n        """Say what this is."""\n        return """\n    less\n"""\n',
        'def f(:\n    """Say what this is."""\n',
        'def f():\n    """Say what a caf\xe9 is."""\n    return 1\n',
        f"def f():\n    {SAY}\n    pass\n",
        f"def f():\n    {SAY}\n    ...\n",
        f"def f():\n    {SAY}\n    raise NotImplementedError\n",
        f"def f():\n    {SAY}\n    raise NotImplementedError('soon')\n",
        f"class A:\n    def __lt__(self, other):\n        {SAY}\n        return NotImplemented\n",
        f"class A:\n    def f(self, x):\n        {SAY}\n        return super().f(x)\n",
        f"class A:\n    def f(self, x):\n        {SAY}\n        super().f(x)\n",
        f"class A:\n    async def f(self, x):\n        {SAY}\n        return await super(A, self).f(x)\n",
        'def f():\n    """See there."""\n    return 1\n',
        'def f(a):\n    """Args:\n        a: what this is\n    """\n    return a\n',
        'def f(a):\n    """:param a: what this is"""\n    return a\n',
        'def f(a):\n    """\n    Parameters\n    ----------\n    a: what this is\n    """\n    return a\n',
        'def f(a):\n    """>>> f(1) + f(2)\n    3\n    """\n    return a\n',
        'def f(*, a=1):\n    """a (`int`, *optional*): what this is."""\n    return a\n',
        f"def f():\n    {SAY}\n    return {' + '.join([SAY] * 1500)}\n",
        f"def f(a=0x{'f' * 5000}):\n    {SAY}\n    return a\n",
        f"def f():\n    {SAY}; x = 1\n    return x\n",
        'x = [lambda: 1]\ndef g():\n    def f():\n        """Say what is inside."""\n        return 1\n    return f\n',
    ],
)
def test_what_makes_no_row(tree: Path, source: str) -> None:
    (tree / "mod.py").write_bytes(source.encode("latin-1"))
    with pytest.raises(RunError, match="no function fits modules, min_lines and max_lines"):
        rows_of(min_lines=1)


@pytest.mark.parametrize(
    "body",
    [
        "return super().f(x) + 1",
        "x += 1\n        return super().f(x)",
        "raise ValueError('x')",
        "return f'''{x}'''.strip()[0]",
        f"return 0x{'f' * 5000}",
        f"return {' + '.join(['x'] * 900)}",
        "return 'Not' \\\n            'Implemented'",
    ],
)
def test_what_makes_a_row(tree: Path, body: str) -> None:
    row = only(tree, f"class A:\n    def f(self, x):\n        {SAY}\n        {body}\n")
    assert row.values["name"] == "f"


def test_the_coding_line_is_honoured(tree: Path) -> None:
    (tree / "mod.py").write_bytes(
        '# coding: latin-1\ndef f():\n    """Say what a caf\xe9 is."""\n    return 1\n'.encode("latin-1")
    )
    assert "caf\xe9" in rows_of()[0].values["instruction"]


def test_check_names_the_nearest_module() -> None:
    assert PythonFunctions(Options(modules=("json", "json.decoder", "os.path", "xml"))).check()[0].key
    problems = PythonFunctions(
        Options(modules=("json", "jsn", "json.decodr", "math", "../etc", "json/../json", ""))
    ).check()
    assert {problem.key for problem in problems} == {"plugin.python_functions.modules"}
    texts = [problem.message for problem in problems]
    assert "no module 'jsn' in the standard library or packages; did you mean json?" in texts
    assert "no module 'json.decodr' in the standard library or packages; did you mean json.decoder?" in texts
    assert "math has no Python source to read: it is part of the interpreter; leave it out" in texts
    assert len(texts) == 6


def test_a_path_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text('def f():\n    """Say what this is."""\n    return 1\n')
    [problem] = PythonFunctions(Options(modules=(str(tmp_path / "mod"),))).check()
    assert "no module" in problem.message


def test_check_of_the_limits() -> None:
    assert PythonFunctions(Options()).check() == []
    [problem] = PythonFunctions(Options(min_lines=9, max_lines=8)).check()
    assert problem.key == "plugin.python_functions.min_lines"


def test_check_of_a_python_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_functions, "library", lambda: tmp_path / "none")
    [problem] = PythonFunctions(Options()).check()
    assert "no standard library as files" in problem.message
