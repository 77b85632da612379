"""Several runs on one page: figures side by side, curves over each other, and what their profiles differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.report.charts import Chart, charts_of, label_of
from ftcore.report.curves import Curve
from ftcore.report.markup import Html, duration, facts, joined, number, shortened, table, tag
from ftcore.report.outcome import base_of, before_after, moment, parameters, parameters_line, score_pairs, seconds_of
from ftcore.report.page import Section, assembled, curves
from ftcore.report.plots import plots
from ftcore.report.record import Record
from ftcore.report.samples import MOST_LETTERS

MOST_ROWS = 12
ABSENT = "(not set)"


def comparison(records: Sequence[Record]) -> str:
    """One page about runs, in the order that they are given in. The same records give the same bytes."""
    names = names_of(records)
    charts = shared(records, names)
    drawn = plots(charts)
    sections = [
        Section(key="figures", title="Figures", body=_figures(records, names)),
        Section(key="curves", title="Curves", body=curves(charts, drawn, machine=False)),
        Section(key="samples", title="Samples", body=_samples(records, names)),
        Section(key="speed", title="Memory and throughput", body=curves(charts, drawn, machine=True)),
        Section(key="configuration", title="What their profiles differ in", body=_differences(records, names)),
    ]
    head = tag("p", f"{len(records)} runs: {', '.join(names)}", class_="outcome")
    return assembled(" and ".join(names[:2]) + (" and more" if len(names) > 2 else ""), head, sections, drawn.data)  # noqa: PLR2004


def names_of(records: Sequence[Record]) -> list[str]:
    """The names of their folders, with a number behind one that is there already."""
    names: list[str] = []
    for record in records:
        name, place = record.folder.name, 2
        while name in names:
            name, place = f"{record.folder.name} ({place})", place + 1
        names.append(name)
    return names


def shared(records: Sequence[Record], names: Sequence[str]) -> list[Chart]:
    """A chart for each name that a run has measured, with a line for each run."""
    found: dict[str, Chart] = {}
    for record, name in zip(records, names, strict=True):
        for chart in charts_of(record.curves):
            for series in chart.series:
                line = attrs.evolve(series, label=name)
                known = found.get(series.name)
                title = chart.title if len(chart.series) == 1 else f"{chart.title}, {label_of(series.name)}"
                new = attrs.evolve(chart, key=f"shared-{len(found) + 1}", title=title, series=[line])
                found[series.name] = attrs.evolve(known, series=[*known.series, line]) if known else new
    return list(found.values())


def _figures(records: Sequence[Record], names: Sequence[str]) -> Html:
    lines = [list(_facts(record)) for record in records]
    titles = list(dict.fromkeys(title for line in lines for title, _ in line))
    rows = ([title, *(dict(line).get(title, "") for line in lines)] for title in titles)
    return table("Figures of each run", ["figure", *names], rows)


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    manifest = record.manifest
    yield "state", record.state
    yield "steps", f"{record.step:,} of {record.total_steps:,}" if record.total_steps else f"{record.step:,}"
    yield "held-out loss", before_after(manifest.loss.get("before"), manifest.loss.get("after"))
    yield from score_pairs(record)
    yield "lowest training loss", _least(record.curves.get("loss"))
    yield "tokens per second (median)", _median(record.curves.get("tokens_per_second"))
    yield "most memory, GiB", _most(record.curves.get("memory"))
    yield "time", duration(seconds_of(record))
    yield "parameters", parameters_line(parameters(record))
    yield "base model", base_of(record)
    yield "rows trained", f"{(manifest.data.get('ledger') or {}).get('trained', 0):,}"
    yield "exports", ", ".join(f"{e.get('kind')}: {e.get('proof', {}).get('verdict')}" for e in manifest.exports)
    yield "begun", moment(manifest.created)


def _least(curve: Curve | None) -> str:
    found = curve.summary.least if curve is not None else None
    return f"{number(found[0])} (step {found[1]:,})" if found else number(None)


def _most(curve: Curve | None) -> str:
    found = curve.summary.most if curve is not None else None
    return number(found[0] if found else None)


def _median(curve: Curve | None) -> str:
    return number(curve.summary.median if curve is not None else None)


def _differences(records: Sequence[Record], names: Sequence[str]) -> Html:
    settings = [flat(record.manifest.settings) for record in records]
    keys = sorted({key for each in settings for key in each})
    rows = [[tag("code", key), *(each.get(key, ABSENT) for each in settings)] for key in keys]
    differing = [row for row in rows if len(set(map(str, row[1:]))) > 1]
    return table("Keys that differ", ["key", *names], differing) if differing else tag("p", "Nothing.")


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A profile's values by key path, such as `train.learning_rate`."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found[f"{before}{name}"] = "(on)"  # a table without keys, such as a plugin's, is a setting too
            found.update(flat(value, f"{before}{name}."))
        else:
            found[f"{before}{name}"] = str(value)
    return found


def _samples(records: Sequence[Record], names: Sequence[str]) -> Html:
    """Answers after training to the rows that at least two of the runs have answered."""
    rows: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for record, name in zip(records, names, strict=True):
        for sample in record.manifest.samples:
            rows.setdefault((str(sample.get("origin")), str(sample.get("prompt"))), []).append((name, sample))
    both = [(origin, told) for (origin, _), told in rows.items() if len(told) > 1]
    return joined(_sample(origin, told) for origin, told in both[:MOST_ROWS])


def _sample(origin: str, told: Sequence[tuple[str, Mapping[str, Any]]]) -> Html:
    first = told[0][1]
    given = facts((name, _cut(first.get(name))) for name in ("prompt", "expected"))
    answers = (tag("div", tag("h4", name), tag("pre", _cut(sample.get("after")))) for name, sample in told)
    return tag("article", tag("h3", origin), given, tag("div", *answers, class_="answers"), class_="sample")


def _cut(words: object) -> str:
    shown, more = shortened("" if words is None else str(words), MOST_LETTERS)
    return f"{shown}\n({more})" if more else shown
