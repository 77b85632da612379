"""Actions that were wanted and answered: how often each, and which was taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ftcore.report.markup import Html, folded, number, table, tag
from ftcore.report.outcome import known
from ftcore.report.plots import colour

TARGET, PREDICTED, CONFUSION = "target/", "predicted/", "confusion/"
LEVELS = 6
MOST_NAMES = 40
BAR = 160
WANTED, ANSWERED = 6, (0, 7)
"""Colours of what was wanted, and of what was answered at the last moment and before it."""

Scores = Mapping[str, float]


def actions(moments: Mapping[str, Scores]) -> Iterator[Html]:
    """A histogram of all moments, and a confusion of each, the last one first; nothing where no actions are counted.

    `moments` name when the scores were made, such as `after training`; those that count none are left out.
    """
    counted = {title: known(scores) for title, scores in moments.items()}
    counted = {title: scores for title, scores in counted.items() if action_names(scores)}
    if not counted:
        return
    names = action_names(*counted.values())
    yield _histogram(names, counted)
    for place, title in enumerate(reversed(counted)):
        cells = confusion(counted[title], names)
        if cells:
            grid = _confusion(f"Confusion {title}".strip(), names, cells)
            yield folded(f"confusion {title}", grid, printed=True) if place else grid


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


def _histogram(names: Sequence[str], moments: Mapping[str, Scores]) -> Html:
    wanted = [list(moments.values())[-1].get(f"{TARGET}{name}", 0.0) for name in names]
    answered = [[scores.get(f"{PREDICTED}{name}", 0.0) for name in names] for scores in moments.values()]
    most = max([*wanted, *(count for counts in answered for count in counts), 1.0])
    rows = (
        [name, *map(number, counts), _bars(counts, most)]
        for name, *counts in zip(names, wanted, *answered, strict=True)
    )
    titles = [f"answered {title}".strip() for title in moments]
    columns = ["action", "wanted", *titles, "bars in this order"]
    return table("Actions wanted and answered", columns, rows, numeric=range(1, len(columns) - 1))


def _bars(counts: Sequence[float], most: float) -> Html:
    """Of what was wanted, then of each moment; the last one has the colour of the main line of a chart."""
    kinds = [WANTED, *reversed(ANSWERED[: len(counts) - 1])]
    bars = (
        _bar(place, count / most * BAR, kind) for place, (count, kind) in enumerate(zip(counts, kinds, strict=True))
    )
    return tag("svg", *bars, width=BAR, height=6 * len(counts) + 2, aria_hidden="true")


def _bar(place: int, width: float, kind: int) -> Html:
    kind_of = colour(kind).replace("line", "bar")
    return tag("rect", x=0, y=place * 6 + 1, width=round(width, 1), height=5, class_=kind_of)


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
