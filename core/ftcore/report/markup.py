"""HTML put together so that what comes from a run stays text: only what is `Html` already is not escaped."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from html import escape

from ftcore.errors import printable

NUMERIC = "n"
"""The class of cells whose figures stand below each other."""
VOID = ("img", "input")


class Html(str):
    """Markup. Any other string is text, and is escaped where it is put between tags."""

    __slots__ = ()


def text(value: object) -> Html:
    """As text, with escapes for what a reader would not see, or what would move other text."""
    return value if isinstance(value, Html) else Html(escape(printable(str(value), keep="\n\t")))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """One after another."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, *parts: object, **attributes: str | int | float | bool | None) -> Html:
    """An element. `class_` is class, `aria_label` is aria-label; an attribute that is None or False is left out."""
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    end = "" if name in VOID else f"{joined(parts)}</{name}>"
    return Html(f"<{name}{given}>{end}")


def _attribute(key: str, value: str | int | float | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{text(value)}"'


def table(
    caption: str, columns: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Container[int] = ()
) -> Html:
    """Rows below a head; the first cell of each names it. The columns at `numeric`, from 0, hold figures.

    It scrolls sideways by itself where a window is too narrow, by keyboard as well.
    """
    kinds = [NUMERIC if place in numeric else None for place in range(len(columns))]
    head = (tag("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True))
    body = (_line(row, kinds) for row in rows)
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", inner, class_="wide", tabindex=0, role="group", aria_label=caption)


def _line(row: Sequence[object], kinds: Sequence[str | None]) -> Html:
    names, *cells = zip(row, kinds, strict=True)
    return tag("tr", tag("th", names[0], scope="row"), *(tag("td", cell, class_=kind) for cell, kind in cells))


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names with what they stand for; those that stand for nothing are left out."""
    lines = (tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if str(value))
    return tag("dl", *lines, class_="facts")


def folded(title: object, *parts: object, opened: bool = False, printed: bool = False) -> Html:
    """What is shown on request, and on paper if it is `printed`."""
    return tag("details", tag("summary", title), *parts, open=opened, class_="printed" if printed else None)


def number(value: float | None) -> str:
    """A figure of four digits or so, with commas; a dash for none, and for what is not a number."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    size = abs(value)
    if size >= 1e15:  # noqa: PLR2004 - beyond, not every whole number is one
        return f"{value:.2e}"
    if value == int(value) or size >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.2e}" if size < 1e-3 else f"{value:.4g}"  # noqa: PLR2004


def change(before: float | None, after: float | None) -> str:
    """By how much a figure has changed, with its sign."""
    if before is None or after is None or not math.isfinite(after - before):
        return number(None)
    if before == after:
        return "no change"
    sign = "+" if after >= before else "\N{MINUS SIGN}"
    return f"{sign}{number(abs(after - before))}"


def duration(seconds: float | None) -> str:
    """Such as `3 h 12 min`, `41 s` or `0.4 s`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return ""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    kept = [(count, unit) for count, unit in units if count][:2]
    return " ".join(f"{count} {unit}" for count, unit in kept)


def shortened(words: str, most: int) -> tuple[str, str]:
    """The beginning of a long text, and a note on how much is left out; an empty one if nothing is."""
    if len(words) <= most:
        return words, ""
    return words[:most], f"{len(words) - most:,} more characters are left out here; report.json has them"
