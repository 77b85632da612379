"""What a model card says, made safe to say: no place of this machine, and nothing that breaks Markdown."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ftcore.shipping.front_matter import Subject
from ftcore.shipping.verification import PLACE
from ftcore.values import Artifact


def number(value: float | None) -> str:
    """Four digits; nothing for what is not known."""
    return "" if value is None else f"{value:.4g}"


def name_in(subject: Subject, artifact: Artifact) -> str:
    """How a reader who stands in the card's folder finds an artifact."""
    if artifact.path == subject.folder:
        return "./"
    for place in (subject.folder, subject.folder.parent):
        if artifact.path.is_relative_to(place):
            return plain(artifact.path.relative_to(place).as_posix())
    return plain(artifact.path.name)


def clean(subject: Subject, text: str) -> str:
    """A cell of a table, without places of this machine."""
    return cell(without_places(subject, text))


def without_places(subject: Subject, text: str) -> str:
    """`text` with names in place of paths: a reader has other folders, and is told nothing of this machine's."""
    for artifact in subject.artifacts:
        for spelling in _spellings(artifact.path):
            text = text.replace(spelling, artifact.path.name)
    for folder in (subject.folder, subject.home):
        for spelling in _spellings(folder):
            text = text.replace(f"{spelling}/", "")
    return PLACE.sub(r"\1", text)


def _spellings(path: Path) -> set[str]:
    """A path as text, and between the quotes that Python and a shell put around it."""
    text = str(path)
    return {text, repr(text)[1:-1], shlex.quote(text).removeprefix("'").removesuffix("'")}


def cell(value: Any) -> str:
    """A value within a table."""
    return plain(str(value)).replace("|", "\\|")


def plain(text: str) -> str:
    """One line, in which no character opens a tag or a code span."""
    return " ".join(text.replace("<", "&lt;").replace("`", "'").split())
