"""`samples/labels.json`: a few rows with what of them is trained, kept for the report while the rows are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.files import replace_text
from ftcore.preview.figures import trained_tokens
from ftcore.preview.pieces import Piece, Pieces, marks_of, pieces_of
from ftcore.values import Example

FILE = Path("samples", "labels.json")
ROWS = 4
MOST_PIECES = 700


@attrs.frozen(kw_only=True)
class LabelledRow:
    """One training row: how many tokens it has and how many of them are trained, and its pieces."""

    origin: str
    tokens: int
    trained: int
    pieces: Pieces


def keep_labels(folder: Path, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Write the first training rows, as the trainer will see them, into the folder of a run.

    What keeps them from being written is told to `say`: a run does without.
    """
    try:
        marks = marks_of(prepared)
        rows = [attrs.asdict(_row(prepared, example, marks)) for example in prepared.data.train[:ROWS]]
        path = folder / FILE
        path.parent.mkdir(exist_ok=True)
        replace_text(path, json.dumps({"rows": rows}, ensure_ascii=False, separators=(",", ":")))
    except Exception as error:  # from the disk, or from a plugin's tokenizer
        say(f"warning: the report will not show what is trained of a row ({type(error).__name__}: {error})")


def read_labels(folder: Path) -> Sequence[LabelledRow]:
    """The rows that were kept; none where there are none, or where another version has kept them."""
    try:
        return [_read_row(row) for row in json.loads((folder / FILE).read_text("utf-8"))["rows"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _row(prepared: Prepared, example: Example, marks: frozenset[int]) -> LabelledRow:
    return LabelledRow(
        origin=example.origin,
        tokens=len(example.input_ids),
        trained=trained_tokens(example),
        pieces=pieces_of(prepared.processor, example, marks, MOST_PIECES),
    )


def _read_row(row: dict[str, Any]) -> LabelledRow:
    found = row["pieces"]
    head, tail = ([Piece(**piece) for piece in found[end]] for end in ("head", "tail"))
    pieces = Pieces(head=head, tail=tail, left_out=int(found["left_out"]))
    return LabelledRow(origin=str(row["origin"]), tokens=int(row["tokens"]), trained=int(row["trained"]), pieces=pieces)
