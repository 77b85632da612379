"""The pictures of held-out rows that are answered: a PNG each, below the run's folder."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from ftcore.data.prepare import Prepared
from ftcore.files import replace_bytes
from ftcore.preview.pictures import first_png
from ftcore.values import Example

SAMPLES = "samples"
MOST = 64
"""Rows whose picture is kept: nobody looks at more, and photographs are large."""


def picture_of(folder: Path, prepared: Prepared, example: Example) -> tuple[str, ...]:
    """What the model sees of a row, written once; its path relative to the run in `folder`.

    Of several images the first; empty for a row without any. A picture that cannot be written is told of and left
    out: a run does not end for it.
    """
    path = folder / SAMPLES / f"{_name(example)}.png"
    try:
        if not path.is_file() and not _written(path, first_png(prepared, example)):
            return ()
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        logging.getLogger("ftcore").warning("no picture of %s is shown: %s", example.origin, cause)
        return ()
    return (path.relative_to(folder).as_posix(),)


def _written(path: Path, png: bytes | None) -> bool:
    if png is None:
        return False
    path.parent.mkdir(exist_ok=True)
    replace_bytes(path, png, durable=False)
    return True


def _name(example: Example) -> str:
    """By what the row holds, since another row may come from the same place once data has changed."""
    known = json.dumps([example.origin, list(example.input_ids), example.features], sort_keys=True, default=str)
    return f"row-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
