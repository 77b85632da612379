"""One HTML file with rows, images and figures that opens anywhere and loads nothing: neither network nor script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from string import Template

import attrs

from ftcore import __version__
from ftcore.data.prepare import Prepared
from ftcore.preview.figures import Figures, dropped, figures
from ftcore.preview.histogram import drawn
from ftcore.preview.markup import label, rows, share
from ftcore.values import Ledger, Run

MOST_BYTES = 32_000_000
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


@attrs.frozen(kw_only=True)
class Page:
    """The HTML, and how many rows it shows; fewer than asked for if they are large."""

    text: str
    rows: int


def page(run: Run, prepared: Prepared, count: int) -> Page:
    """The first `count` training rows with their images, under the figures of all."""
    data = prepared.data
    found, examples = figures(data), data.train[:count]
    shown = list(rows(prepared, examples, MOST_BYTES))
    style = asset("tokens.css") + asset("page.css")  # what is printed comes last
    text = Template(asset("page.html")).substitute(
        policy=POLICY.format(_digest(style)),
        style=style,
        name=label(run.name),
        facts=_facts(run, prepared),
        lengths_title=f"{len(data.lengths):,} training rows by number of tokens",
        histogram=drawn(data.lengths, found.lengths, run.profile.train.max_length),
        table=_table(found),
        notes=_notes(found, len(data.train), run.profile.train.max_length),
        rows="".join(shown),
        rest=_rest(len(shown), len(examples), len(data.train)),
        version=__version__,
    )
    return Page(text=text, rows=len(shown))


def asset(name: str) -> str:
    """A file that lies beside this one. Other pages show tokens as this one does, by `tokens.css`."""
    return Path(__file__).with_name(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(run: Run, prepared: Prepared) -> str:
    facts = [
        ("model", label(run.profile.model.id)),
        *_ledger(prepared.data.ledger),
        ("labels", f"proved on {prepared.proved:,} rows"),
        ("data", f"<code>{label(prepared.fingerprint[:12])}</code>"),
    ]
    lines = (f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
    return f"<dl>{''.join(lines)}</dl>"


def _ledger(ledger: Ledger) -> Iterator[tuple[str, str]]:
    yield (
        "rows",
        f"{ledger.rows:,} in = {ledger.trained:,} trained + {ledger.held_out:,} held out "
        f"+ {len(ledger.dropped):,} dropped",
    )
    for reason in dropped(ledger):
        yield "", label(str(reason))
    if ledger.repeated:
        yield "", f"{ledger.repeated:,} more in an epoch, since data.weights repeats rows"


def _table(found: Figures) -> str:
    head = "".join(f"<th>{name}</th>" for name in found.lengths)
    lines = (
        f"<tr><th>{title}</th>{''.join(f'<td>{value:,}</td>' for value in spread.values())}</tr>"
        for title, spread in (("tokens a row", found.lengths), ("trained tokens a row", found.trained))
    )
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _notes(found: Figures, count: int, limit: int) -> str:
    sample = f" (counted on {found.sampled:,} rows, drawn at random)" if found.sampled < count else ""
    return f"<p>{share(found.share)} of the tokens are trained{sample}; train.max_length is {limit:,}</p>"


def _rest(shown: int, asked: int, count: int) -> str:
    if shown < asked:
        size = f"{MOST_BYTES // 1_000_000} MB"
        return f'<p class="note">{shown:,} of {asked:,} rows: with more, this page would be larger than {size}</p>'
    return f"<p>{shown:,} of {count:,} training rows</p>"
