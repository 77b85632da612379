"""Charts as a page holds them: a frame that is read without its script, and the data that the script draws."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.errors import printable
from ftcore.files import finite
from ftcore.report.charts import Chart, Series
from ftcore.report.curves import Curve, Drawn, Summary, drawn, most_points
from ftcore.report.markup import Html, folded, number, table, tag

COLOURS = 8
ROWS = 12
COLUMNS = ("curve", "points", "first", "last", "lowest", "at step", "highest", "at step", "mean")


@attrs.frozen(kw_only=True)
class Mark:
    """Something that happened after a step. `number` is that of a notice in its list; 0 for others."""

    step: int
    kind: str
    text: str
    number: int = 0


@attrs.frozen(kw_only=True)
class Plots:
    """Every chart of a page: frames by chart, and the data of all."""

    frames: Mapping[str, Html]
    data: Html
    note: str
    marked: bool


def plots(charts: Sequence[Chart], marks: Sequence[Mark] = ()) -> Plots:
    """The charts, each with its figures as a table."""
    most = most_points([series.curve for chart in charts for series in chart.series])
    shown = {chart.key: [drawn(series.curve, most) for series in chart.series] for chart in charts}
    longest = max((series.curve.steps[-1] for chart in charts for series in chart.series), default=0)
    data = {
        "charts": [_data(chart, shown[chart.key]) for chart in charts],
        "marks": [{**attrs.asdict(mark), "text": printable(mark.text)} for mark in marks],
        "last": longest,
    }
    frames = {chart.key: _frame(chart, shown[chart.key]) for chart in charts}
    reduced = any(len(each.means[0]) for every in shown.values() for each in every)
    return Plots(frames=frames, data=as_script(data), note=_note(most) if reduced else "", marked=bool(marks))


def as_script(data: Any) -> Html:
    """JSON that a script element can hold: no text in it ends the element, or begins a comment."""
    words = json.dumps(finite(data), ensure_ascii=True, separators=(",", ":"))
    return Html(words.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _note(most: int) -> str:
    return (
        f"A curve of more than {most:,} points is drawn from the lowest and the highest value of each of "
        f"{most // 2:,} equal stretches of steps, so that no extreme is lost; it is smoothed from their means. "
        "metrics.jsonl has every value."
    )


def _data(chart: Chart, shown: Sequence[Drawn]) -> dict[str, Any]:
    series = (
        {"label": printable(each.label), "dots": each.dots, "noisy": each.noisy, **points.as_json()}
        for each, points in zip(chart.series, shown, strict=True)
    )
    return {"key": chart.key, "title": chart.title, "series": list(series)}


def _frame(chart: Chart, shown: Sequence[Drawn]) -> Html:
    """The script draws into the element with the class `plot`."""
    summaries = [series.curve.summary for series in chart.series]
    unit = tag("span", f" {chart.unit}", class_="unit") if chart.unit else ""
    heading = tag("h3", chart.title, unit, id=f"chart-{chart.key}-title")
    caption = tag("figcaption", heading, _legend(chart.series))
    label = f"{chart.title}: {_said(chart.series, summaries)}"
    plot = tag("div", class_="plot", tabindex=0, role="group", aria_label=label, aria_describedby="chart-help")
    tables = [
        _figures(chart, summaries),
        *(_values(chart.title, *pair) for pair in zip(chart.series, shown, strict=True)),
    ]
    return tag("figure", caption, plot, folded("figures", *tables), class_="chart", id=f"chart-{chart.key}")


def _legend(series: Sequence[Series]) -> Html:
    """Only where there is something to tell apart."""
    if len(series) < 2:  # noqa: PLR2004
        return Html("")
    return tag("ul", *(_entry(place, each.label) for place, each in enumerate(series)), class_="legend-lines")


def _entry(place: int, label: str) -> Html:
    line = tag("line", x1=0, x2=18, y1=5, y2=5, class_=colour(place))
    swatch = tag("svg", line, width=18, height=10, aria_hidden="true")
    return tag("li", swatch, f" {label}")


def colour(place: int) -> str:
    """The classes of a line; the ninth is the first one again, dashed."""
    return f"line s{place % COLOURS}" + (f" dash{place // COLOURS % 3}" if place >= COLOURS else "")


def _said(series: Sequence[Series], summaries: Sequence[Summary]) -> str:
    return "; ".join(
        f"{each.label} from {number(found.first)} to {number(found.last)}"
        for each, found in zip(series, summaries, strict=True)
    )


def _figures(chart: Chart, summaries: Sequence[Summary]) -> Html:
    rows = (_summary_row(series.label, found) for series, found in zip(chart.series, summaries, strict=True))
    return table(f"{chart.title} in figures", COLUMNS, rows, numeric=range(1, len(COLUMNS)))


def _summary_row(label: str, found: Summary) -> list[str]:
    low, high = found.least or (None, None), found.most or (None, None)
    points = f"{found.points:,}" + (f" ({found.missing:,} no number)" if found.missing else "")
    return [
        label,
        points,
        *(number(value) for value in (found.first, found.last, *low, *high, found.mean)),
    ]


def _values(chart: str, series: Series, shown: Drawn) -> Html:
    """A dozen of its values, evenly over the steps."""
    steps = [f"{step:,}" for step, _ in _some(series.curve)]
    values = [number(value) for _, value in _some(series.curve)]
    means = " (drawn from the extremes)" if len(shown.means[0]) else ""
    title = f"{chart}, {series.label}{means}: some of its values"
    return table(title, ["step", *steps], [["value", *values]], numeric=range(1, len(steps) + 1))


def _some(curve: Curve) -> Iterator[tuple[int, float]]:
    count = len(curve.steps)
    places = range(count) if count <= ROWS else (round(n * (count - 1) / (ROWS - 1)) for n in range(ROWS))
    return ((curve.steps[place], curve.values[place]) for place in places)


def toolbar(marked: bool) -> Html:
    """What the script listens to. It is hidden until the script is there; `marked` charts have marks to hide."""
    smooth = tag(
        "label",
        "smoothing ",
        _input("range", "smoothing", min=0, max=100, value=0),
        tag("output", for_="smoothing", id="smoothed"),
    )
    scale = tag("label", _input("checkbox", "logarithmic"), " logarithmic")
    marks = tag("label", _input("checkbox", "marks", checked=True), " marks", hidden=not marked)
    reset = tag("button", "whole run", type="button", id="reset", disabled=True)
    shown = tag("span", "", id="shown")
    return tag(
        "div",
        smooth,
        scale,
        marks,
        reset,
        shown,
        class_="toolbar",
        id="toolbar",
        role="group",
        aria_label="charts",
        hidden=True,
    )


def _input(kind: str, key: str, **rest: str | int | bool) -> Html:
    return tag("input", type=kind, id=key, **rest)


HELP = tag(
    "p",
    "Point at a chart for its values; drag over steps to see them alone, in every chart; double-click for the whole "
    "run. By keyboard: arrow keys move the cursor, Shift makes them faster, + and \N{MINUS SIGN} zoom around it, 0 "
    "shows the whole run.",
    id="chart-help",
    class_="quiet",
)
