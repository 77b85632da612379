"""Task metrics before, during and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftcore.report.actions import actions
from ftcore.report.markup import Html, change, joined, number, table
from ftcore.report.outcome import known, plain
from ftcore.report.record import Record
from ftcore.values import EventKind

Scores = Mapping[str, float]


def scores(record: Record) -> Html:
    """Everything that is known of the task; empty for a run without scores."""
    before, after = (known(record.manifest.scores.get(when, {})) for when in ("before", "after"))
    during = _during(record)
    last = {"after training": after} if after or not during else {f"at {during[1]}": during[0]}
    return joined([_changes(record, before, during, after), *actions({"before training": before, **last})])


def _during(record: Record) -> tuple[Scores, str] | None:
    """The last scores while training, and when they were made, of how many rows."""
    found = [event for event in record.of(EventKind.ANSWERS) if event.values.get("when") == "during"]
    if not found:
        return None
    rows = found[-1].values.get("rows")
    count = f", {len(rows):,} rows" if isinstance(rows, list) else ""
    return known(found[-1].values.get("scores")), f"step {found[-1].step:,}{count}"


def _changes(record: Record, before: Scores, during: tuple[Scores, str] | None, after: Scores) -> Html:
    middle, moment = during or ({}, "")
    names = list(plain({**before, **middle, **after}))
    loss = record.manifest.loss
    rows = [("held-out loss", loss.get("before"), _eval_loss(record), loss.get("after"))]
    rows += [(name, before.get(name), middle.get(name), after.get(name)) for name in names]
    shown = [row for row in rows if any(value is not None for value in row[1:])]
    if not shown:
        return Html("")
    moments = ("before", f"during ({moment})", "after") if during else ("before", "after")
    lines = (_line(row if during else (row[0], row[1], row[3])) for row in shown)
    return table("Before, during and after", ["score", *moments, "change"], lines, numeric=range(1, 5))


def _line(row: Sequence[str | float | None]) -> list[str]:
    name, *values = row
    figures = [value for value in values if not isinstance(value, str)]
    return [str(name), *map(number, figures), change(figures[0], figures[-1])]


def _eval_loss(record: Record) -> float | None:
    curve = record.curves.get("eval_loss")
    return curve.values[-1] if curve is not None and len(curve.values) else None
