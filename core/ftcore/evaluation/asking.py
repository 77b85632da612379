"""Questions to a model: rows of a file that may lack their reply, or a text, with images if the format has a place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.sequences import Joined, Renamed
from ftcore.errors import FtcoreError, Interrupted, PluginError, ProfileError, RunError
from ftcore.evaluation.rowset import Wanted, other_run, other_source
from ftcore.reopening import Opened
from ftcore.values import Drop, Example, Format, Row

ORIGIN = "--prompt"


@attrs.frozen(kw_only=True)
class Question:
    """What a row asks: its example, or why it is left out."""

    origin: str
    example: Example | None = None
    left_out: str = ""


def file_rows(opened: Opened, file: Path) -> Sequence[Row]:
    """The rows of a file in the run's format, read when they are asked for; its columns are renamed as the run's."""
    wanted = Wanted(file=file)
    run = other_run(opened.run, wanted)
    source = other_source(opened, run, wanted)
    rows: Sequence[Row] = Joined([part.rows for part in source.parts])
    if not len(rows):
        raise RunError(f"{file} has no rows")
    columns = run.profile.data.columns
    return Renamed(rows, columns) if columns else rows


def prompt_row(format_: Format, prompt: str, images: Sequence[Path], maker: str) -> Row:
    """The row that asks `prompt` about `images`. Raises `ProfileError` where the run's format cannot be asked so."""
    if format_.question is None:
        raise ProfileError(f"{maker} does not say how a text becomes a row; ask with rows of its format: --data FILE")
    if not images:
        return Row(values=format_.question(prompt, ()), origin=ORIGIN)
    folder, names = _beside(images)
    return Row(values=format_.question(prompt, names), origin=ORIGIN, folder=folder)


def asked(format_: Format, rows: Sequence[Row], maker: str) -> Iterator[Question]:
    """What each row asks, in order. Raises `RowError` with file and line for a row that is not of the format."""
    encode = format_.ask or format_.encode
    for row in rows:
        answer = _encoded(encode, row, maker)
        if isinstance(answer, Drop):
            yield Question(origin=row.origin, left_out=answer.reason)
        else:
            yield Question(origin=row.origin, example=answer)


def _encoded(encode: Any, row: Row, maker: str) -> Example | Drop:
    try:
        [answer] = encode([row])
    except (FtcoreError, Interrupted):
        raise
    except BaseException as error:
        raise PluginError(f"{maker}: {row.origin} cannot be asked: {type(error).__name__}: {error}") from error
    if not isinstance(answer, Example | Drop):
        raise PluginError(f"{maker}: answered a {type(answer).__name__} for {row.origin}, not an Example or a Drop")
    return answer


def _beside(images: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that all of them lie in, and their names from there: no row names files outside of its folder."""
    for image in images:
        if not image.is_file():
            raise ProfileError(f"--image: {'that is a folder' if image.is_dir() else 'no such file'}: {image}")
    folder = Path(os.path.commonpath([image.absolute().parent for image in images]))
    return folder, [image.absolute().relative_to(folder).as_posix() for image in images]
