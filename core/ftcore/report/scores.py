"""Task metrics before, during and after training; confusion and histogram of what should and what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ftcore.report.markup import Html, change, folded, joined, number, table, tag
from ftcore.report.outcome import known, plain
from ftcore.report.plots import colour
from ftcore.report.record import Record
from ftcore.values import EventKind

TARGET, PREDICTED, CONFUSION = "target/", "predicted/", "confusion/"
LEVELS = 6
MOST_NAMES = 40
BAR = 160

Scores = Mapping[str, float]


def scores(record: Record) -> Html:
    """Everything that is known of the task; empty for a run without scores."""
    before, after = (known(record.manifest.scores.get(when, {})) for when in ("before", "after"))
    during = _during(record)
    parts = [_changes(record, before, during, after), *actions(before, after or (during or ({}, 0))[0])]
    return joined(parts)


def _during(record: Record) -> tuple[Scores, int] | None:
    """The last scores while training, and their step."""
    found = [event for event in record.of(EventKind.ANSWERS) if event.values.get("when") == "during"]
    last = found[-1] if found else None
    return None if last is None else (known(last.values.get("scores") or {}), last.step)


def _changes(record: Record, before: Scores, during: tuple[Scores, int] | None, after: Scores) -> Html:
    middle, step = during or ({}, 0)
    names = list(plain({**before, **middle, **after}))
    loss = record.manifest.loss
    rows = [("held-out loss", loss.get("before"), _eval_loss(record), loss.get("after"))]
    rows += [(name, before.get(name), middle.get(name), after.get(name)) for name in names]
    shown = [row for row in rows if any(value is not None for value in row[1:])]
    if not shown:
        return Html("")
    moments = ("before", f"during (step {step:,})", "after") if during else ("before", "after")
    lines = (_line(row if during else (row[0], row[1], row[3])) for row in shown)
    return table("Before, during and after", ["score", *moments, "change"], lines, numeric=range(1, 5))


def _line(row: Sequence[str | float | None]) -> list[str]:
    name, *values = row
    figures = [value for value in values if not isinstance(value, str)]
    return [str(name), *map(number, figures), change(figures[0], figures[-1])]


def _eval_loss(record: Record) -> float | None:
    curve = record.curves.get("eval_loss")
    return curve.values[-1] if curve is not None and len(curve.values) else None


def actions(before: Scores, after: Scores) -> Iterator[Html]:
    """The histogram, and a confusion of each moment; nothing for scores that count no actions."""
    before, after = known(before), known(after)
    names = action_names(before, after)
    if not names:
        return
    yield _histogram(names, before, after)
    for title, found in (("after", after), ("before", before)):
        cells = confusion(found, names)
        if cells:
            grid = _confusion(f"Confusion {title} training", names, cells)
            yield (
                grid
                if title == "after" or not confusion(after, names)
                else folded("confusion before training", grid, printed=True)
            )


def action_names(*every: Scores) -> list[str]:
    """Actions that were wanted, most frequent first, then what else was answered."""
    wanted: dict[str, float] = {}
    answered: dict[str, float] = {}
    for found in every:
        for name, value in found.items():
            if name.startswith(TARGET):
                wanted[name.removeprefix(TARGET)] = value
            elif name.startswith(PREDICTED) and value:
                answered.setdefault(name.removeprefix(PREDICTED), value)
    first = sorted(wanted, key=lambda name: (-wanted[name], name))
    return [*first, *sorted(name for name in answered if name not in wanted)][:MOST_NAMES]


def confusion(found: Scores, names: Sequence[str]) -> dict[tuple[str, str], float]:
    """Rows by what was wanted and what was answered. A name may hold slashes: the known ones say where to cut."""
    cells = {}
    for key, count in found.items():
        if key.startswith(CONFUSION):
            pair = _cut(key.removeprefix(CONFUSION), set(names))
            if pair is not None:
                cells[pair] = count
    return cells


def _cut(pair: str, names: set[str]) -> tuple[str, str] | None:
    parts = pair.split("/")
    cuts = (("/".join(parts[:place]), "/".join(parts[place:])) for place in range(1, len(parts)))
    return next((cut for cut in cuts if cut[0] in names and cut[1] in names), None)


def _histogram(names: Sequence[str], before: Scores, after: Scores) -> Html:
    wanted, first, last = (
        [found.get(f"{kind}{name}", 0.0) for name in names]
        for found, kind in ((after or before, TARGET), (before, PREDICTED), (after, PREDICTED))
    )
    most = max([*wanted, *first, *last, 1.0])
    rows = (
        [name, *(number(count) for count in counts), _bars(counts, most)]
        for name, *counts in zip(names, wanted, first, last, strict=True)
    )
    columns = [
        "action",
        "wanted",
        "answered before",
        "answered after",
        tag("span", "wanted, before, after", class_="quiet"),
    ]
    return table("Actions wanted and answered", columns, rows, numeric=range(1, 4))


def _bars(counts: Sequence[float], most: float) -> Html:
    bars = (
        tag(
            "rect",
            x=0,
            y=place * 6 + 1,
            width=round(count / most * BAR, 1),
            height=5,
            class_=colour(kind).replace("line", "bar"),
        )
        for place, (count, kind) in enumerate(zip(counts, (6, 7, 0), strict=True))
    )
    return tag("svg", *bars, width=BAR, height=20, aria_hidden="true")


def _confusion(caption: str, names: Sequence[str], cells: Mapping[tuple[str, str], float]) -> Html:
    wanted = [name for name in names if any(cell[0] == name for cell in cells)]
    answered = [name for name in names if any(cell[1] == name for cell in cells)]
    head = tag(
        "tr",
        tag("th", "wanted, by what was answered", scope="col"),
        *(tag("th", name, scope="col") for name in answered),
    )
    body = (tag("tr", tag("th", name, scope="row"), *_row(name, answered, cells)) for name in wanted)
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="confusion")
    return tag("div", inner, class_="wide", tabindex=0, role="group", aria_label=caption)


def _row(name: str, answered: Sequence[str], cells: Mapping[tuple[str, str], float]) -> Iterator[Html]:
    """Each cell is as dark as its share of the row; the right answer has a border."""
    whole = sum(count for cell, count in cells.items() if cell[0] == name) or 1.0
    for answer in answered:
        count = cells.get((name, answer), 0.0)
        level = min(LEVELS - 1, int(count / whole * LEVELS)) if count else None
        classes = "" if level is None else f"c{level}"
        yield tag("td", number(count) if count else "", class_=f"n {classes}{' right' if answer == name else ''}")
