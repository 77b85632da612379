"""What a row says: its pictures, its texts and its action, found by the columns' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ftcore.api import Row, RowError
from ftcore_plugins.gemma_grid.action import ActionError, action_of, written
from ftcore_plugins.gemma_grid.layout import FRAMES

__all__ = ["Columns", "Turn", "names_of"]

Names = str | tuple[str, ...]


@attrs.frozen(kw_only=True)
class Turn:
    """One row. `images` are the paths of four frames, oldest first, or of one ready grid; `reply` is JSON text."""

    images: tuple[str, ...]
    context: str
    question: str
    reply: str


@attrs.frozen(kw_only=True)
class Columns:
    """Where each part of a row is found: of several names, the first that the row has and that is not null."""

    frames: Names
    image: Names
    context: Names
    question: Names
    action: Names
    action_key: str
    keys: tuple[str, ...] = ()
    needs_context: bool = True

    def turn(self, row: Row) -> Turn:
        """The row's parts. Raises `RowError` when one is missing or of the wrong kind."""
        return Turn(
            images=self._images(row),
            context=_text(row, self.context, required=self.needs_context),
            question=_text(row, self.question, required=False),
            reply=self._reply(row),
        )

    def _images(self, row: Row) -> tuple[str, ...]:
        column, frames = _found(row, self.frames)
        if not column:
            column, image = _found(row, self.image)
            if not column:
                raise _missing(row, (*names_of(self.frames), *names_of(self.image)))
            if not isinstance(image, str):
                raise _wrong(row, f"column {column!r} must be the path of a grid, not {type(image).__name__}")
            return (image,)
        if not isinstance(frames, Sequence) or isinstance(frames, str):
            raise _wrong(row, f"column {column!r} must be a list of paths, not {type(frames).__name__}")
        if len(frames) != FRAMES:
            raise _wrong(row, f"column {column!r} must have {FRAMES} paths, oldest first, not {len(frames)}")
        for frame in frames:
            if not isinstance(frame, str):
                raise _wrong(row, f"column {column!r} must hold paths, not {type(frame).__name__}")
        return tuple(frames)

    def _reply(self, row: Row) -> str:
        column, value = _found(row, self.action)
        if not column:
            raise _missing(row, names_of(self.action))
        try:
            return written(action_of(value, self.action_key), self.action_key, self.keys)
        except ActionError as error:
            raise _wrong(row, f"column {column!r} {error}") from error


def names_of(names: Names) -> tuple[str, ...]:
    """One column's name, or several, as several."""
    return (names,) if isinstance(names, str) else names


def _found(row: Row, names: Names) -> tuple[str, Any]:
    """The first of the columns that is there and not null, and its value; otherwise no name."""
    for name in names_of(names):
        if row.values.get(name) is not None:
            return name, row.values[name]
    return "", None


def _text(row: Row, names: Names, *, required: bool) -> str:
    column, value = _found(row, names)
    if not column:
        if required:
            raise _missing(row, names_of(names))
        return ""
    if not isinstance(value, str):
        raise _wrong(row, f"column {column!r} must be a text, not {type(value).__name__}")
    return value


def _missing(row: Row, names: Sequence[str]) -> RowError:
    wanted = " or ".join(map(repr, names))
    return _wrong(row, f"no column {wanted}; the row has {', '.join(row.values) or 'none'}")


def _wrong(row: Row, reason: str) -> RowError:
    return RowError(reason, origin=row.origin)
