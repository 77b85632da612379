"""Held-out rows with their images and what the model answered, and rows with what of them is trained."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.preview.markup import share, tokens
from ftcore.report.labels import LabelledRow
from ftcore.report.markup import Html, folded, joined, shortened, tag
from ftcore.report.record import Record
from ftcore.values import EventKind

MOST_ROWS = 24
MOST_LETTERS = 2_000
DURING_LETTERS = 500
MOST_DURING = 12
PNG = b"\x89PNG\r\n\x1a\n"


@attrs.define
class Images:
    """PNG files of a run's folder as `data:` URIs, as long as there is room; each is read once."""

    folder: Path
    room: int = 600_000
    left_out: int = 0
    _read: dict[str, str] = attrs.field(factory=dict, init=False)

    def source(self, name: str) -> str:
        """The URI of one; empty for what is no image in the folder, or for which there is no room."""
        if name not in self._read:
            self._read[name] = self._uri(name)
        return self._read[name]

    def _uri(self, name: str) -> str:
        data = _png(self.folder, name, self.room)
        if not data:
            self.left_out += 1
            return ""
        self.room -= len(data)
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _png(folder: Path, name: str, most: int) -> bytes:
    """The bytes of a PNG file that lies in the folder, and not only seems to; none if it is larger than `most`."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
            return b""
        data = path.read_bytes()
    except (OSError, ValueError):
        return b""
    return data if data.startswith(PNG) else b""


def samples(record: Record, images: Images) -> Html:
    """The rows that were answered before and after training; empty if there were none."""
    rows = list(_rows(record))
    parts = [_sample(place, row, images) for place, row in enumerate(rows[:MOST_ROWS], start=1)]
    notes = [f"{len(rows) - MOST_ROWS:,} more rows are in report.json"] if len(rows) > MOST_ROWS else []
    notes += (
        [f"{images.left_out:,} images are not shown: they are missing, or this page would be too large"]
        if images.left_out
        else []
    )
    return joined([*parts, *(tag("p", note, class_="note") for note in notes)])


def _rows(record: Record) -> Iterator[Mapping[str, Any]]:
    """Those of the manifest; of a run that has none, those that its last evaluation answered."""
    during = _during(record)
    known = [dict(sample) for sample in record.manifest.samples]
    if not known:
        latest = rows_in(record.latest(EventKind.ANSWERS).get("rows"))
        known = [{**row, "before": "", "after": ""} for row in latest]
    for row in known:
        yield {**row, "during": during.get(str(row.get("origin")), [])}


def rows_in(value: object) -> list[Mapping[str, Any]]:
    """The rows of an event, those that are any."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _during(record: Record) -> dict[str, list[tuple[int, str]]]:
    """Answers while training, by row: step and answer, only those that differ from the one before."""
    found: dict[str, list[tuple[int, str]]] = {}
    for event in record.of(EventKind.ANSWERS):
        rows = event.values.get("rows") if event.values.get("when") == "during" else None
        for row in rows_in(rows):
            told = found.setdefault(str(row.get("origin")), [])
            answer = str(row.get("answer", ""))
            if not told or told[-1][1] != answer:
                told.append((event.step, answer))
    return found


def _sample(place: int, row: Mapping[str, Any], images: Images) -> Html:
    origin = str(row.get("origin", ""))
    names = [str(name) for name in row.get("images") or ()]
    pictures = [
        tag("img", src=source, alt=f"image {number} of {origin}")
        for number, name in enumerate(names, start=1)
        if (source := images.source(name))
    ]
    shown = tag("div", *pictures, class_="pictures") if pictures else ""
    return tag(
        "article",
        tag("h3", tag("span", str(place)), f" {origin}"),
        shown,
        _said("prompt", row.get("prompt")),
        tag("div", *(_said(name, row.get(name)) for name in ("expected", "before", "after")), class_="answers"),
        _while_training(row.get("during") or []),
        class_="sample",
    )


def _said(title: str, words: object, most: int = MOST_LETTERS) -> Html:
    whole = "" if words is None else str(words)
    shown, more = shortened(whole, most)
    body = tag("pre", shown) if whole.strip() else tag("p", "(nothing)", class_="quiet")
    return tag("div", tag("h4", title), body, tag("p", more, class_="note") if more else "")


def _while_training(told: Sequence[tuple[int, str]]) -> Html:
    if not told:
        return Html("")
    kept = told[-MOST_DURING:]
    title = "answers while training" + (f" (the last {len(kept)} that changed)" if len(kept) < len(told) else "")
    return folded(title, *(_said(f"from step {step:,}", answer, DURING_LETTERS) for step, answer in kept))


def labels(rows: Sequence[LabelledRow]) -> Html:
    """Rows as the trainer sees them; empty if none were kept."""
    return joined(_labelled(place, row) for place, row in enumerate(rows, start=1))


LEGEND = tag(
    "p",
    tag("span", "trained", class_="t"),
    " ",
    tag("span", "masked", class_="m"),
    " ",
    tag("span", "special or image token", class_="m k"),
    tag("span", "point at a token for its id and position", class_="hint"),
    class_="legend",
)


def _labelled(place: int, row: LabelledRow) -> Html:
    part = share(row.trained / max(1, row.tokens))
    return tag(
        "article",
        tag("h3", tag("span", str(place)), f" {row.origin}"),
        tag("p", f"{row.tokens:,} tokens, {row.trained:,} trained ({part})", class_="quiet"),
        Html(tokens(row.pieces)),
    )
