"""What commands import: the light ones stay light, and plugins show a light face."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import ftcore
from ftcore import engine, preflight
from ftcore.discovery import PLUGINS

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "trl",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "pandas",
}
MIDDLING = {
    "attrs",
    "attr",
    "cattrs",
    "pluggy",
    "rich",
    "tomllib",
    "tomli_w",
    "argparse",
    "typing",
    "importlib.metadata",
}

SHOW = """
import sys, json, contextlib, io
from ftcore.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    code = main(sys.argv[1:])
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


@pytest.fixture
def imported():
    """The exit code of a command in a fresh process, and every module that it loaded."""

    def call(*arguments, env=None, cwd=None):
        command = [sys.executable, "-c", SHOW, *map(str, arguments)]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=cwd, env={**os.environ, **(env or {})}
        )
        found = json.loads(answer.stdout)
        return found["code"], set(found["modules"])

    return call


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_but_the_command_line(imported, option):
    code, modules = imported(option)
    assert code == 0
    assert not modules & (HEAVY | MIDDLING - {"argparse", "typing"})
    ours = {name for name in modules if name.partition(".")[0] in ("ftcore", "ftcore_plugins")}
    assert ours == {"ftcore", "ftcore.cli"}


def test_importing_ftcore_imports_nothing(imported):
    answer = subprocess.run(
        [sys.executable, "-c", "import sys, ftcore; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    modules = set(answer.stdout.split())
    assert {name for name in modules if name.startswith("ftcore.")} == set()
    assert not modules & (HEAVY | {"attrs", "pluggy", "rich"})


def test_the_python_api_is_two_functions():
    assert ftcore.load_profile is preflight.load_profile
    assert ftcore.run is engine.run
    assert not hasattr(ftcore, "trian")


@pytest.mark.parametrize("command", [["check"], ["check", "--json"]])
def test_check_of_a_light_profile_imports_nothing_heavy(desk, imported, command):
    code, modules = imported(*command, desk.profile, env=desk.installation.env, cwd=desk.folder)
    assert code == 0
    assert not modules & HEAVY
    assert "light_plugins" in modules


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "light_rows"], ["schema"], ["runs"], ["init"]])
def test_other_light_commands_import_nothing_heavy(desk, imported, arguments):
    code, modules = imported(*arguments, env=desk.installation.env, cwd=desk.folder)
    assert code == 0
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [["check", "profiles/quickstart.toml"], ["plugins"], ["schema"]])
def test_the_built_in_plugins_show_a_light_face(imported, repository, arguments):
    code, modules = imported(*arguments, cwd=repository)
    assert code == 0
    assert not modules & HEAVY
    assert "rich" not in modules or arguments == ["plugins"]
    assert any(name.startswith("ftcore_plugins.") for name in modules)


def test_check_imports_only_the_plugins_that_are_on(imported, repository):
    _, modules = imported("check", "profiles/quickstart.toml", cwd=repository)
    assert "ftcore_plugins.python_functions" in modules
    on = (repository / "profiles" / "quickstart.toml").read_text()
    fallbacks = {point.name for point in entry_points(group="ftcore.fallbacks")}
    for point in entry_points(group=PLUGINS):
        if f"[plugin.{point.name}]" not in on and point.name not in fallbacks:
            assert point.module not in modules, f"{point.name} is not on"


@pytest.mark.parametrize("point", entry_points(group=PLUGINS), ids=lambda point: point.name)
def test_every_installed_plugin_can_be_found(point):
    assert importlib.util.find_spec(point.module) is not None
