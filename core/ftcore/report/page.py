"""`report.html`: one file with all there is to see of a run, which opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import Template

import attrs

from ftcore import __version__
from ftcore.preview import page as preview
from ftcore.report import machine, outcome
from ftcore.report.charts import Chart, charts_of
from ftcore.report.judged import evaluations
from ftcore.report.markup import Html, joined, tag, text
from ftcore.report.plots import HELP, Plots, plots, toolbar
from ftcore.report.record import Record
from ftcore.report.samples import LEGEND, Images, labels, samples
from ftcore.report.scores import scores

POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; "
    "base-uri 'none'; form-action 'none'"
)
SCRIPTS = ("scales.js", "chart.js", "report.js")


@attrs.frozen(kw_only=True)
class Section:
    """A part of the page that its contents list; one without a body is left out."""

    key: str
    title: str
    body: Html


def page(record: Record) -> str:
    """The report of one run. The same record gives the same bytes."""
    charts = charts_of(record.curves)
    drawn = plots(charts, outcome.marks_of(record))
    head = joined([outcome.state_line(record), outcome.headline(record)])
    return assembled(record.manifest.name or record.folder.name, head, _sections(record, charts, drawn), drawn.data)


def _sections(record: Record, charts: Sequence[Chart], drawn: Plots) -> Iterator[Section]:
    yield Section(key="health", title="Health", body=outcome.notices(record))
    yield Section(key="curves", title="Curves", body=curves(charts, drawn, machine=False))
    yield Section(key="scores", title="Task metrics", body=scores(record))
    yield Section(key="samples", title="Samples", body=samples(record, Images(record.folder)))
    speed = joined([machine.speed(record.curves), curves(charts, drawn, machine=True)])
    yield Section(key="speed", title="Memory and throughput", body=speed)
    yield Section(key="labels", title="What is trained", body=_labels(record))
    yield Section(key="data", title="Data", body=machine.ledger(record))
    yield Section(key="exports", title="Exports", body=machine.exports(record))
    yield Section(key="evaluations", title="Evaluations", body=evaluations(record))
    yield Section(key="configuration", title="Configuration", body=machine.configuration(record))
    yield Section(key="versions", title="Versions and machine", body=machine.versions(record))


def curves(charts: Sequence[Chart], drawn: Plots, *, machine: bool) -> Html:
    """The charts of one kind; with those of learning, how they are used."""
    frames = [drawn.frames[chart.key] for chart in charts if chart.machine is machine]
    if machine:
        return tag("div", *frames, class_="charts") if frames else Html("")
    note = tag("p", drawn.note, class_="quiet") if drawn.note else ""
    if not charts:
        return tag("p", "Nothing was measured yet.")
    return joined([toolbar(drawn.marked), HELP, tag("div", *frames, class_="charts"), note])


def _labels(record: Record) -> Html:
    found = labels(record.labels)
    return joined([LEGEND, found]) if found else found


def assembled(name: str, head: Html, sections: Iterable[Section], data: Html) -> str:
    """The whole file. Its policy lets a browser run its own script and style, and fetch nothing."""
    kept = [section for section in sections if section.body]
    style = preview.asset("tokens.css") + _asset("report.css")
    script = "\n".join(["'use strict';", *map(_asset, SCRIPTS)])
    links = (tag("li", tag("a", section.title, href=f"#{section.key}")) for section in kept)
    return Template(_asset("report.html")).substitute(
        policy=POLICY.format(_digest(style), _digest(script)),
        style=style,
        script=script,
        data=data,
        name=text(name),
        head=head,
        contents=tag("ul", *links),
        sections=joined(map(_section, kept), "\n"),
        version=text(__version__),
    )


def _section(section: Section) -> Html:
    title = f"{section.key}-title"
    return tag("section", tag("h2", section.title, id=title), section.body, id=section.key, aria_labelledby=title)


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _digest(words: str) -> str:
    return base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()
