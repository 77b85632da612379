"""A grid that nobody has answered yet: rows that lack their action, or a text and the files of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import Drop, Example, Row, RunError
from ftcore_plugins.gemma_grid.columns import Columns, names_of
from ftcore_plugins.gemma_grid.encode import GridEncoder
from ftcore_plugins.gemma_grid.layout import FRAMES

__all__ = ["GridQuestions"]

STAND_IN = "left"
"""An action, since a row has one. No prompt depends on it."""


@attrs.frozen(kw_only=True)
class GridQuestions:
    """`Format.ask` and `Format.question` of grids."""

    encoder: GridEncoder

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer for each row. Raises `RowError` for a row with a wrong column or a bad image."""
        whole = [self._completed(row) for row in rows]
        answers = zip(self.encoder(whole), rows, whole, strict=True)
        return [answer if row is other else _without_reply(answer) for answer, row, other in answers]

    def question(self, prompt: str, images: Sequence[str]) -> Mapping[str, Any]:
        """The columns of a row that asks `prompt` of one ready grid, or of four frames. Raises `RunError`."""
        return {**self._texts(prompt), **self._pictures(images)}

    def _completed(self, row: Row) -> Row:
        names = names_of(self._columns.action)
        if any(row.values.get(name) is not None for name in names):
            return row
        action = {self._columns.action_key: STAND_IN}
        return attrs.evolve(row, values={**row.values, names[0]: action})

    @property
    def _columns(self) -> Columns:
        return self.encoder.columns

    def _texts(self, prompt: str) -> Mapping[str, str]:
        """The prompt goes to the place that the profile's prompt has for it; the other one stays empty."""
        question, context = (names_of(names)[0] for names in (self._columns.question, self._columns.context))
        if "{question}" in self.encoder.prompt:
            return {question: prompt, context: ""}
        if "{context}" in self.encoder.prompt:
            return {context: prompt}
        raise RunError("--prompt: plugin.gemma_grid.prompt has a place for neither question nor context; leave it out")

    def _pictures(self, images: Sequence[str]) -> Mapping[str, Any]:
        if len(images) == 1:
            return {names_of(self._columns.image)[0]: images[0]}
        if len(images) == FRAMES:
            return {names_of(self._columns.frames)[0]: list(images)}
        wanted = f"one ready grid, or {FRAMES} frames, oldest first"
        raise RunError(f"--image: gemma_grid takes {wanted}, not {len(images)} images; repeat --image for each")


def _without_reply(answer: Example | Drop) -> Example | Drop:
    return attrs.evolve(answer, replies=()) if isinstance(answer, Example) else answer
