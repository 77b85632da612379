"""A YAML file of settings that somebody else's tool has written, with the line of each key; it may hold anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcore.errors import Problem

MAX_BYTES = 64 * 1024


class WrongFileError(Exception):
    """What is wrong with the file as a whole."""

    def __init__(self, path: Path, message: str, *, line: int | None = None) -> None:
        self.problem = Problem(message=message, file=path, line=line)


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """What the file holds, and the lines of its keys; those of a table in it are `table.key`.

    Raises `WrongFileError`.
    """
    try:
        import yaml
    except ImportError:
        text = "PyYAML is not installed, which reads this file; run: pip install pyyaml"
        raise WrongFileError(path, text) from None
    text = _read_text(path)
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few of them can stand for gigabytes
                raise WrongFileError(path, "write out what the alias stands for", line=event.start_mark.line + 1)
        tree: Any = yaml.compose(text, yaml.SafeLoader)
        return yaml.safe_load(text), dict(_lines(tree))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise WrongFileError(path, f"not valid YAML: {said}", line=mark.line + 1 if mark else None) from None


def _read_text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise WrongFileError(path, "this is no file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data[:MAX_BYTES].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise WrongFileError(path, f"cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise WrongFileError(path, f"over {MAX_BYTES // 1024} KiB; this is no file of settings")
    return text


def _lines(tree: Any, above: str = "") -> Iterator[tuple[str, int]]:
    if getattr(tree, "id", "") != "mapping":
        return
    for key, value in tree.value:
        name = f"{above}{key.value}"
        yield name, key.start_mark.line + 1
        if not above:
            yield from _lines(value, f"{name}.")
