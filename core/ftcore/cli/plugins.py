"""List every installed plugin, or print the options of one with type, default and help."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from ftcore.cli.common import print_json, table
from ftcore.discovery import Installed, Source, config_class, discover
from ftcore.errors import PluginError, ProfileError
from ftcore.options import options_of, shown_default
from ftcore.plugins import implemented_hooks
from ftcore.structure import nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore plugins`."""
    parser.add_argument("name", nargs="?", help="plugin whose options to print")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def main(parsed: argparse.Namespace) -> int:
    """List all, or describe one."""
    installed = discover()
    if parsed.name is None:
        found = [describe(installed, source) for source in installed.sources]
        if parsed.json:
            print_json(found)
        else:
            _print_list(found)
        return 0
    if parsed.name not in installed.names:
        raise ProfileError(f"no such plugin: {parsed.name}{nearest(parsed.name, installed.names)}")
    cls = installed.find(parsed.name).load()
    if parsed.json:
        print_json({**describe(installed, installed.find(parsed.name)), "options": _options(cls)})
    else:
        _print_one(installed.find(parsed.name), cls)
    return 0


def describe(installed: Installed, source: Source) -> dict[str, Any]:
    """One plugin: where it comes from, what it hooks into, and whether it works."""
    facts = {"name": source.name, "distribution": source.distribution, "version": source.version}
    try:
        cls = installed.find(source.name).load()
    except PluginError as error:
        return {**facts, "hooks": [], "state": "broken", "reason": str(error), "help": ""}
    state = "fallback" if source.name in installed.fallbacks else "ready"
    return {**facts, "hooks": implemented_hooks(cls), "state": state, "reason": "", "help": _first_line(cls)}


def _print_list(found: list[dict[str, Any]]) -> None:
    rows = [
        [
            facts["name"],
            f"{facts['distribution']} {facts['version']}",
            facts["state"],
            ", ".join(facts["hooks"]),
            facts["reason"] or facts["help"],
        ]
        for facts in found
    ]
    table(["plugin", "from", "state", "hooks", ""], rows)


def _print_one(source: Source, cls: type[Any]) -> None:
    print(f"{source}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n\nhooks: {', '.join(implemented_hooks(cls))}\n")
    rows = [[option["name"], option["type"], option["default"], option["help"]] for option in _options(cls)]
    if rows:
        table([f"[plugin.{source.name}]", "type", "default", "help"], rows)
    else:
        print("no options")


def _options(cls: type[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": option.name,
            "type": option.type_name,
            "default": shown_default(option),
            "help": option.help,
            "bounds": dict(option.bounds),
        }
        for option in options_of(config_class(cls))
    ]


def _first_line(cls: type[Any]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").split("\n")[0]
