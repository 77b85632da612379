"""What `ftcore evaluate` has found of a run: figures with their intervals, and its actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcore.report.actions import actions
from ftcore.report.markup import Html, joined, number, table, tag
from ftcore.report.record import Record

LONG = "samples"
"""What the page and `report.json` leave to the evaluation's own file: every answer."""


def evaluations(record: Record) -> Html:
    """Each evaluation; empty for none."""
    return joined(_evaluation(name, found) for name, found in record.evaluations.items())


def brief(record: Record) -> dict[str, Any]:
    """The same for programs."""
    return {
        name: {key: value for key, value in found.items() if key != LONG} for name, found in record.evaluations.items()
    }


def _evaluation(name: str, found: Mapping[str, Any]) -> Html:
    figures = list(_figures(found))
    columns = ["figure", "value", "from", "to"]
    parts = [
        tag("h3", name),
        tag("p", ", ".join(_about(found)), class_="quiet"),
        table(f"{name}, with intervals", columns, figures, numeric=range(1, 4)) if figures else "",
        *actions({"": _mapping(found.get("counts"))}),
    ]
    return tag("article", *parts)


def _about(found: Mapping[str, Any]) -> Iterator[str]:
    """What was judged on what, as far as the file says so."""
    rows, how = _mapping(found.get("rows")), _mapping(found.get("interval"))
    if found.get("weights"):
        yield f"{found['weights']} weights of step {found.get('step', '')}"
    if rows:
        yield f"{rows.get('count', '')} rows of {rows.get('name', '')}, {rows.get('answered', 0)} answered"
    if isinstance(how.get("level"), float):
        yield f"intervals of {how['level']:.0%} by {how.get('method', '')}"
    if found.get("time"):
        yield str(found["time"])


def _figures(found: Mapping[str, Any]) -> Iterator[list[str]]:
    every = {"loss": found.get("loss"), "perplexity": found.get("perplexity"), **_mapping(found.get("scores"))}
    for name, value in every.items():
        if isinstance(value, Mapping):
            yield [name, *(_shown(value.get(part)) for part in ("value", "low", "high"))]
        elif value is not None:
            yield [name, _shown(value), "", ""]


def _shown(value: object) -> str:
    return number(value) if isinstance(value, int | float) else number(None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
