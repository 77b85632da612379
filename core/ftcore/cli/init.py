"""Write a commented profile for a chosen task and this machine's hardware."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from ftcore.cli.common import print_json
from ftcore.discovery import discover
from ftcore.errors import ProfileError
from ftcore.hardware import recommended_profile
from ftcore.structure import nearest
from ftcore.template import commented_profile, describe, heading_for, paths_for, tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore init`."""
    parser.add_argument("task", nargs="?", help="task to write a profile for; without one, the tasks are listed")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: TASK.toml)")
    parser.add_argument("--json", action="store_true", help="print the list of tasks as JSON")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def main(parsed: argparse.Namespace) -> int:
    """List the tasks, or write one's profile."""
    known = tasks()
    if parsed.task is None and parsed.json:
        print_json([{"task": name, "help": describe(path)} for name, path in known.items()])
        return 0
    if parsed.task is None:
        width = max(map(len, known))
        for name, path in known.items():
            print(f"{name:<{width}} {describe(path)}")
        return 0
    if parsed.task not in known:
        raise ProfileError(f"no such task: {parsed.task}{nearest(parsed.task, known)}")
    output = parsed.output or Path(f"{parsed.task}.toml")
    if output.exists() and not parsed.force:
        raise ProfileError(f"{output} is there already; name another file with --output, or pass --force")
    source = known[parsed.task]
    tables = paths_for(tomllib.loads(source.read_text("utf-8")), output)
    hardware = recommended_profile()
    tables["hardware"] = {**tables.get("hardware", {}), "profile": hardware}
    output.write_text(commented_profile(tables, discover(), heading_for(source, output)), "utf-8")
    print(f"wrote {output} for hardware profile {hardware}; next: ftcore check {output}, then ftcore run {output}")
    return 0
