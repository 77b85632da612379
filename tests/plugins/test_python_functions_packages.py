"""`python_functions` on installed packages, and what it takes for twins."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from collections import Counter
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftcore_plugins import python_functions
from ftcore_plugins.python_functions import Options, PythonFunctions, places
from ftcore_plugins.python_functions.extraction import pairs_in_turns
from ftcore_plugins.python_functions.normal import normal_form
from functions_kit import rows_of


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, the only one, beside a standard library of one module."""
    site, library = tmp_path / "site-packages", tmp_path / "library"
    others = [folder for folder in sys.path if Path(folder).name not in {"site-packages", "dist-packages"}]
    monkeypatch.setattr(sys, "path", [str(site), *others])
    for module in (places, python_functions):
        monkeypatch.setattr(module, "library", lambda: library)
    write(library, "json.py")
    return site


def write(folder: Path, *files: str, functions: int = 1) -> None:
    """Packages below `folder` with these files, with functions whose code is like no other's."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.relative_to(folder).parents[:-1]:
            (folder / package / "__init__.py").touch()
        named = "".join(character if character.isalnum() else "_" for character in file)
        path.write_text("".join(FUNCTION.format(name=f"{named}_{number}") for number in range(functions)))


FUNCTION = 'def {name}(text):\n    """Say what {name} is."""\n    return text.{name}()\n'


def modules_of(**options: Any) -> set[str]:
    return {row.values["module"] for row in rows_of(limit=100_000, **options)}


def faults_of(**options: Any) -> list[str]:
    return [problem.message for problem in PythonFunctions(Options(**options)).check()]


def test_packages_are_read_besides_the_standard_library(site: Path) -> None:
    write(site, "torch/nn/layers.py", "numpy/__init__.py", "six.py")
    assert modules_of() == {"json"}
    assert modules_of(packages=("torch",)) == {"json", "torch.nn.layers"}
    assert modules_of(packages=("six", "numpy")) == {"json", "six", "numpy"}
    assert modules_of(packages=("*",)) == {"json", "torch.nn.layers", "numpy", "six"}
    assert modules_of(packages=("*", "six")) == modules_of(packages=("*",))


def test_modules_narrow_the_packages_down(site: Path) -> None:
    write(site, "torch/nn/layers.py", "torch/nn/functional.py", "torch/jit.py", "numpy/linalg.py")
    assert modules_of(packages=("torch",), modules=("torch",)) == {
        "torch.nn.layers",
        "torch.nn.functional",
        "torch.jit",
    }
    assert modules_of(packages=("*",), modules=("torch.nn.layers", "json")) == {"torch.nn.layers", "json"}
    assert modules_of(packages=("*",), modules=("torch.nn",)) == {"torch.nn.layers", "torch.nn.functional"}
    assert faults_of(packages=("torch",), modules=("torch.nn",)) == []


def test_a_row_says_where_it_comes_from(site: Path) -> None:
    write(site, "torch/nn/__init__.py", functions=2)
    row = rows_of(packages=("torch",), modules=("torch.nn",))[1]
    assert row.values["module"] == "torch.nn"
    assert row.origin == "torch/nn/__init__.py:4"


def test_tests_scripts_and_copies_are_left_out(site: Path) -> None:
    write(site, "p/code.py", "p/testing.py", "p/latest.py")
    write(site, "p/tests/x.py", "p/test/x.py", "p/test_x.py", "p/x_test.py", "p/conftest.py", "tests/x.py", "test_p.py")
    write(site, "p/some-script.py", "p/2to3/x.py", "p/_vendor/x.py", "p/_vendored/x.py", "q-1.0.dist-info/x.py")
    assert modules_of(packages=("*",)) == {"json", "p.code", "p.testing", "p.latest"}


def test_the_standard_library_hides_a_package_of_its_name_as_import_does(site: Path) -> None:
    write(site, "json.py", "asyncio/__init__.py", functions=2)
    assert len(rows_of(packages=("*",))) == 1


def test_the_first_folder_of_the_path_hides_the_others_as_import_does(site: Path, monkeypatch: Any) -> None:
    other = site.parent / "other" / "site-packages"
    write(site, "p.py")
    write(other, "p/late.py", "q.py")
    monkeypatch.setattr(sys, "path", [str(site), str(other), *sys.path[1:]])
    assert modules_of(packages=("*",)) == modules_of(packages=("p", "q")) == {"json", "p", "q"}


def test_a_package_hides_a_module_of_its_name_as_import_does(site: Path) -> None:
    write(site, "p.py", "p/inside.py")
    assert modules_of(packages=("*",)) == modules_of(packages=("p",)) == {"json", "p.inside"}


def test_nothing_is_imported(site: Path) -> None:
    write(site, "boom/__init__.py", "boom/inside.py")
    for file in ("__init__", "inside"):
        path = site / "boom" / f"{file}.py"
        path.write_text(f"{path.read_text()}\nraise SystemExit('imported')\n")
    assert faults_of(packages=("boom", "*"), modules=("boom.inside", "boom")) == []
    assert modules_of(packages=("boom",)) == {"json", "boom", "boom.inside"}
    assert "boom" not in sys.modules


def test_as_many_rows_as_are_asked_for_and_from_all_over(site: Path) -> None:
    write(site, *(f"p{package}/m{module}.py" for package in range(6) for module in range(5)), functions=12)
    rows = rows_of(packages=("*",), limit=300)
    assert len(rows) == 300
    share = Counter(row.values["module"] for row in rows)
    assert len(share) >= 31
    assert min(share[f"p{package}.m{module}"] for package in range(6) for module in range(5)) >= 8
    assert len(rows_of(packages=("*",), limit=1000)) == 6 * 5 * 12 + 1, "every function has its turn"
    few = rows_of(packages=("*",), limit=80)
    assert len({row.values["module"].split(".")[0] for row in few}) >= 4


def test_the_rows_do_not_depend_on_the_order_of_the_file_system(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(site, *(f"p{n}/m{m}.py" for n in range(5) for m in range(3)), functions=9)
    rows = rows_of(packages=("*",), limit=50)
    walk = places.os.walk
    monkeypatch.setattr(places.os, "walk", lambda top: ((a, b, c[::-1]) for a, b, c in reversed(list(walk(top)))))
    assert rows_of(packages=("*",), limit=50) == rows


def test_no_syntax_tree_is_kept(site: Path) -> None:
    write(site, *(f"p/m{number}.py" for number in range(20)), functions=20)
    pairs = pairs_in_turns(places.sources((), ("*",)), range(1, 40))
    for _ in range(18 * 8):
        next(pairs)
    trees = [thing for thing in gc.get_objects() if isinstance(thing, ast.Return) and thing.lineno == 60]
    assert trees == []


def test_each_function_once_however_often_it_is_copied(site: Path) -> None:
    write(site, "rich/table.py", functions=3)
    for place in ("pip/inner", "poetry"):
        folder = site / place
        folder.mkdir(parents=True)
        for package in (folder, folder.parent):
            (package / "__init__.py").touch()
        source = (site / "rich" / "table.py").read_text()
        (folder / "table.py").write_text(source.replace("text", "line: str").replace("line: str.", "line."))
    rows = rows_of(packages=("*",))
    assert len(rows) == 4
    assert rows == rows_of(packages=("*",))
    assert len(rows_of(packages=("*",), deduplicate=False)) == 10


def test_each_instruction_once(site: Path) -> None:
    for name in ("a", "b"):
        (site / name).with_suffix(".py").parent.mkdir(exist_ok=True)
        (site / f"{name}.py").write_text(f'def f():\n    """Say what f is."""\n    return {name!r}\n')
    assert len(rows_of(packages=("*",))) == 2
    assert len(rows_of(packages=("*",), deduplicate=False)) == 3


GIVEN = "def f(a, b=1):\n    c = [x + a for x in b]\n    return c.d(e, a=c)\n"


@pytest.mark.parametrize(
    "twin",
    [
        "def f(a,b=1): # why\n\n  c = [\n   x + a for x in b\n  ]\n  return (c.d(e, a=c,))\n",
        'def f(a: int, b: str = 1) -> dict:\n    """Doc."""\n    c = [x + a for x in b]\n    return c.d(e, a=c)\n',
        "def g(a, b=1):\n    c = [x + a for x in b]\n    return c.d(e, a=c)\n",
        "def f(q, r=1):\n    a = [b + q for b in r]\n    return a.d(e, a=a)\n",
    ],
)
def test_twins(twin: str) -> None:
    assert normal_form(twin) == normal_form(GIVEN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".d(", ".dd("),
        ("(e, ", "(ee, "),
        (", a=c", ", aa=c"),
        ("b=1", "b=True"),
        ("b=1", "b='1'"),
        ("b=1", "b"),
        ("x + a", "a + x"),
        ("c = ", "global c\n    c = "),
        ("a, b=1", "a, *, b=1"),
        ("def", "async def"),
        ("def", "@property\ndef"),
        ("return c", "return a"),
        ("e, a=c", "*e, a=c"),
        ("e, a=c", "'e', a=c"),
    ],
)
def test_no_twins(old: str, new: str) -> None:
    assert normal_form(GIVEN.replace(old, new)) != normal_form(GIVEN)


def test_which_names_are_the_functions_own() -> None:
    both = "def f():\n    global a, b\n    {} = 1\n    {} = 2"
    assert normal_form(both.format("a", "b")) != normal_form(both.format("b", "a"))
    assert normal_form("def f(a):\n    f(a)") == normal_form("def g(a):\n    g(a)")
    assert normal_form("def f(a):\n    f(a)") != normal_form("def g(a):\n    f(a)")
    loop = "def f():\n    try:\n        {0} = 1\n    except E as {1}:\n        return lambda {2}: ({0}, {1}, {2})"
    assert normal_form(loop.format("a", "b", "c")) == normal_form(loop.format("c", "a", "b"))
    assert normal_form(loop.format("a", "b", "c")) != normal_form(loop.format("a", "a", "c"))


def test_a_normal_form_of_an_expression_that_nests_deep() -> None:
    assert normal_form("x" + " + x" * 2500) != normal_form("x" + " + x" * 2501)


def test_only_python_has_a_normal_form() -> None:
    with pytest.raises(ValueError, match="not valid Python"):
        normal_form("def f(:")


def test_check_says_what_is_wrong_with_a_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ghost", ModuleType("ghost"))
    write(site, "torch/nn.py", "PIL/Image.py", "_pil.py")
    (site / "google" / "protobuf").mkdir(parents=True)
    (site / f"quick{EXTENSION_SUFFIXES[0]}").touch()
    (site / "shell").mkdir()
    (site / "shell" / "__init__.py").write_text("from .shell import *\n")
    (site / "shell" / f"shell{EXTENSION_SUFFIXES[0]}").touch()
    distribution = site / "pillow-11.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 11.0\n")
    (distribution / "RECORD").write_text("_pil.py,,\nPIL/__init__.py,,\nPIL/Image.py,,\n../../bin/pil.py,,\n")
    names = ("trch", "torch.nn", "Pillow", "json", "google", "quick", "shell", "nonsense", "ghost", "")
    problems = PythonFunctions(Options(packages=(*names, "torch", "PIL", "*"))).check()
    assert {problem.key for problem in problems} == {"plugin.python_functions.packages"}
    assert [problem.message for problem in problems] == [
        "no installed package is imported as 'trch'; did you mean torch?",
        "no installed package is imported as 'torch.nn'; write torch here and torch.nn in modules",
        "no installed package is imported as 'Pillow'; write PIL",
        "json is in the standard library, which needs no naming here; leave it out",
        "google has no Python source to read: it is a namespace of other packages; leave it out",
        "quick has no Python source to read: it is compiled; leave it out",
        "shell has no Python source to read: it is compiled; leave it out",
        "no installed package is imported as 'nonsense'; install it, or leave it out",
        "no installed package is imported as 'ghost'; install it, or leave it out",
        "no installed package is imported as ''; install it, or leave it out",
    ]


def test_check_of_modules_and_packages_together(site: Path) -> None:
    write(site, "torch/nn.py", "six.py")
    assert faults_of(modules=("torch.nn",)) == ["torch is not in the standard library; name it in packages too"]
    assert faults_of(modules=("json",), packages=("torch",)) == [
        "nothing of torch would be read, since modules names none of it; add torch to modules"
    ]
    assert faults_of(modules=("torch.nm", "sixx", "six.six", f"torch.{'n' * 300}"), packages=("*",)) == [
        "no module 'torch.nm' in the standard library or packages; did you mean torch.nn?",
        "no module 'sixx' in the standard library or packages; did you mean six?",
        "no module 'six.six' in the standard library or packages; did you mean six?",
        f"no module 'torch.{'n' * 300}' in the standard library or packages; "
        "name one that `import` finds, such as json",
    ]


def test_check_of_what_is_really_installed_imports_none_of_it() -> None:
    code = (
        "import sys; from ftcore_plugins.python_functions import *;"
        "options = Options(packages=('attr', 'torch', '*'), modules=('torch.nn', 'attr'));"
        "print(PythonFunctions(options).check(), {'torch', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert answer.stdout == "[] set()\n"


def test_rows_of_a_real_package_are_its_functions() -> None:
    rows = rows_of(packages=("pluggy",), modules=("pluggy",))
    [row] = [row for row in rows if row.values["name"] == "get_hookcallers"]
    assert row.values["module"] == "pluggy._manager"
    assert all(isinstance(ast.parse(row.values["output"]).body[0], ast.FunctionDef) for row in rows)


def test_what_is_loaded_already_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is looked for where it is installed, not among what this process has imported."""
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    monkeypatch.setitem(sys.modules, "json", ModuleType("json"))
    assert places.spec_of("made_up") is None
    assert places.origin_of("json") == places.library() / "json" / "__init__.py"
