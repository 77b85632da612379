"""What the documentation refers to is there: pages, headings, commands, flags, make targets, messages."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, REPOSITORY, anchors, blocks, prose

from ftcore.cli import COMMANDS
from ftcore.discovery import discover

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: no heading for {link}"


def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_is_valid(block: object) -> None:
    ast.parse(getattr(block, "text", ""))


def _command_lines() -> Iterator[tuple[str, str]]:
    for block in blocks("sh"):
        for line in block.text.splitlines():
            for command in line.partition("#")[0].split(" && "):
                yield str(block), command.strip().removeprefix("$ ")
    for page in PAGES:
        for code in INLINE.findall(prose(page)):
            yield str(page.relative_to(REPOSITORY)), code


LINES = sorted({(place, line) for place, line in _command_lines() if line.startswith("ftcore ")})


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place} {line}" for place, line in LINES])
def test_command_line_is_understood(place: str, line: str) -> None:
    name, *arguments = shlex.split(line.partition(" > ")[0])[1:]
    if name in ("--help", "--version", "COMMAND"):
        return
    assert name in COMMANDS, f"{place}: {line}"
    assert _fault(name, arguments) == "", f"{place}: {line}"


def test_there_are_command_lines() -> None:
    assert len(LINES) > len(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_make_targets_are_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = re.findall(r"(?:^|`)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)
    assert set(shown) <= targets


def test_readme_opens_with_the_two_commands() -> None:
    first = next(block for block in blocks("sh") if block.page == REPOSITORY / "README.md")
    assert first.text == "make quickstart\nmake test\n"


def test_readme_lists_every_built_in_plugin() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(source.name for source in discover().sources if source.distribution == "ftcore")


def test_troubleshooting_quotes_messages_that_exist() -> None:
    folders = (REPOSITORY / "core", REPOSITORY / "plugins")
    source = "\n".join(path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text("utf-8").partition("## Not an error")[0]
    quoted = [words for row in re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE) for words in INLINE.findall(row)]
    assert len(quoted) > 50
    assert [words for words in quoted if words not in source] == []


def test_changelog_follows_its_form() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    allowed = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= allowed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)


def _fault(name: str, arguments: list[str]) -> str:
    import importlib

    parser = _Parser()
    importlib.import_module(f"ftcore.cli.{name}").add_arguments(parser)
    try:
        parser.parse_args([argument for argument in arguments if argument != "--help"])
    except ValueError as error:
        # `ftcore check` in a sentence means the command, not a way to call it.
        return "" if not arguments or arguments == ["--help"] else str(error)
    return ""
