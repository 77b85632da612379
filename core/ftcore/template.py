"""Write a commented profile: what the task sets, and every other option with its default, commented out."""

from __future__ import annotations

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
    """The comment that opens a shipped profile, on one line."""
    words: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
    return " ".join(words)


def commented_profile(tables: Mapping[str, Any], installed: Installed, heading: str) -> str:
    """`tables` as TOML, each option with its help, the unset ones commented out."""
    lines = [f"# {heading}", "# Lines that begin with # show defaults; remove the # to change one.", ""]
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
