"""Write a commented profile: what the task sets, and every other option with its default, commented out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcore.discovery import Installed, config_class
from ftcore.hardware import shipped
from ftcore.options import Option, options_of, toml_value
from ftcore.preflight import CORE_TABLES

COMMENT_COLUMN = 40


def tasks() -> dict[str, Path]:
    """Every task by name: the profiles that ship with ftcore."""
    return {path.stem: path for path in sorted(shipped("profiles").glob("*.toml"))}


def describe(path: Path) -> str:
    """The comment that opens a shipped profile, on one line; not the commands in it, which are indented."""
    return " ".join(line for line in _opening(path) if not line.startswith(" ")).removesuffix(":")


def heading_for(path: Path, output: Path) -> str:
    """The comment that opens a shipped profile, with commands that work where `output` is written."""
    text = "\n".join(_opening(path))
    text = text.replace("python examples/", f"python {shlex.quote(str(shipped('examples')))}/")
    return text.replace(f"profiles/{path.name}", shlex.quote(str(output)))


def paths_for(tables: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Shipped profiles lie in a folder below the one where their commands are run: their `../data` is its `data`."""
    data = dict(tables.get("data", {}))
    path = str(data.get("path", ""))
    if path.startswith("../"):
        data["path"] = os.path.relpath(Path.cwd() / path.removeprefix("../"), output.absolute().parent)
    return {**tables, "data": data}


def _opening(path: Path) -> Iterator[str]:
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("# ").rstrip()


def commented_profile(tables: Mapping[str, Any], installed: Installed, heading: str) -> str:
    """`tables` as TOML, each option with its help, the unset ones commented out."""
    lines = [
        *(f"# {line}" for line in heading.splitlines()),
        "# Lines that begin with # show defaults; remove the # to change one.",
        "",
    ]
    for name, cls in CORE_TABLES.items():
        lines += _table(name, cls, tables.get(name, {}))
    for name, table in tables.get("plugin", {}).items():
        lines += _table(f"plugin.{name}", config_class(installed.find(name).load()), table)
    return "\n".join(lines)


def _table(name: str, cls: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{name}]"
    for option in options_of(cls):
        yield _line(option, values)
    yield ""


def _line(option: Option, values: Mapping[str, Any]) -> str:
    if option.name in values:
        setting = f"{option.name} = {toml_value(values[option.name])}"
    elif option.default is None:
        setting = f"# {option.name} ="
    else:
        setting = f"# {option.name} = {toml_value(option.default)}"
    return f"{setting:<{COMMENT_COLUMN}} # {option.help}"
