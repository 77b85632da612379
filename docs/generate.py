"""Write the pages that are read off the code: docs/options.md and docs/cli.md.

python docs/generate.py            writes them
python docs/generate.py --check    writes nothing; exit code 1 if one of them is out of date
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcore.cli import COMMANDS
from ftcore.discovery import Installed, Source, config_class, discover
from ftcore.errors import ExitCode
from ftcore.options import Option, options_of, shown_default
from ftcore.plugins import implemented_hooks
from ftcore.preflight import CORE_TABLES

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code: do not edit. `make docs` writes it anew. -->"
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.RUN_FAILED: "the run failed: its data, model or machine, or an export that is not proved",
    ExitCode.PROFILE: "the profile is wrong, or the command was used wrongly; every problem is printed",
    ExitCode.PLUGIN: "a plugin is broken: it cannot be imported, does not fit its hooks, or raised in one",
    ExitCode.RESUMABLE: "stopped by SIGTERM after a checkpoint; `ftcore run --resume RUN` goes on",
    ExitCode.INTERRUPTED: "stopped by SIGINT after a checkpoint; `ftcore run --resume RUN` goes on",
}


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    return {DOCS / "options.md": _join(options_page()), DOCS / "cli.md": _join(cli_page())}


def options_page() -> Iterator[str]:
    """The core tables, then every built-in plugin."""
    installed = discover()
    built_in = [source for source in installed.sources if source.distribution == "ftcore"]
    yield from ("# Options", NOTE)
    yield (
        "Every option of a profile, with its type, its default and its bounds. `ftcore plugins NAME` prints the same "
        "for any installed plugin. *unset* means that the option has no value unless you give it one. How a profile "
        "is read is in [profile.md](profile.md)."
    )
    yield "## Core tables"
    for name, cls in CORE_TABLES.items():
        yield f"### `[{name}]`"
        text = inspect.cleandoc(cls.__doc__ or "").partition(": ")[2]
        yield f"{text[:1].upper()}{text[1:]}"
        yield _table(options_of(cls))
    yield "## Built-in plugins"
    yield "\n".join(f"- [`{source.name}`](#plugin{source.name}): {_summary(source)}" for source in built_in)
    for source in built_in:
        yield from _plugin(installed, source)


def cli_page() -> Iterator[str]:
    """Every command with its arguments, and the exit codes."""
    yield from ("# The command line", NOTE)
    yield "\n".join(f"- [`ftcore {name}`](#ftcore-{name}): {text}" for name, text in COMMANDS.items())
    yield (
        "`ftcore --help` lists them, and `ftcore --version` prints the version. Results go to standard output, "
        "messages and progress to standard error. With `--json`, standard output holds one JSON document alone."
    )
    yield from (_command(name) for name in COMMANDS)
    yield "## Exit codes"
    rows = [f"| {int(code)} | {EXIT_CODES[code]} |" for code in ExitCode]
    yield "\n".join(["| code | meaning |", "|---|---|", *rows])


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command, as `ftcore NAME` builds it."""
    command = importlib.import_module(f"ftcore.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"ftcore {name}", description=command.__doc__)
    command.add_arguments(parser)
    return parser


def _plugin(installed: Installed, source: Source) -> Iterator[str]:
    cls = source.load()
    yield f"### `[plugin.{source.name}]`"
    yield inspect.cleandoc(cls.__doc__ or "")
    hooks = ", ".join(f"[`{hook}`](hooks.md#{hook})" for hook in implemented_hooks(cls))
    on = (
        " On without a table: a fallback, which yields to another plugin." if source.name in installed.fallbacks else ""
    )
    yield f"Hooks: {hooks}.{on}"
    options = options_of(config_class(cls))
    yield _table(options) if options else "No options."


def _summary(source: Source) -> str:
    first = inspect.cleandoc(source.load().__doc__ or "").split("\n")[0]
    return f"{first[:1].lower()}{first[1:]}".rstrip(".")


def _table(options: list[Option]) -> str:
    rows = [
        f"| `{option.name}` | {_escaped(option.type_name)}{_bounds(option)} | {_default(option)} "
        f"| {_escaped(option.help)} |"
        for option in options
    ]
    return "\n".join(["| option | type | default | |", "|---|---|---|---|", *rows])


def _bounds(option: Option) -> str:
    return "".join(f", {BOUNDS[name]} {_number(limit)}" for name, limit in option.bounds.items())


def _number(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _default(option: Option) -> str:
    shown = shown_default(option)
    return f"*{shown}*" if option.required or option.default is None else f"`{_escaped(shown)}`"


def _command(name: str) -> str:
    parser = parser_of(name)
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    rows = [f"| `{_escaped(_flag(action))}` | {_escaped(_help(action))} |" for action in actions]
    usage = " ".join(["ftcore", name, *(_usage(action) for action in actions)])
    table = "\n".join(["| argument | |", "|---|---|", *rows])
    return f"## `ftcore {name}`\n\n{parser.description}\n\n```text\n{usage}\n```\n\n{table}"


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)  # as argparse fills in %(default)s


def _usage(action: argparse.Action) -> str:
    return f"[{_flag(action)}]" if action.option_strings or action.nargs == "?" else _flag(action)


def _flag(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest).upper()
    return " ".join([*action.option_strings[:1], *([value] if value else [])])


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _join(parts: Iterator[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    made: dict[Path, Any] = pages()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            sys.stderr.write(f"{path} is out of date; run: python docs/generate.py\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(made[path], "utf-8")
        sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
