"""The head of a report: how the run ended, its figures in a glance, and what was noticed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ftcore.report.markup import Html, change, duration, facts, joined, number, tag
from ftcore.report.plots import Mark
from ftcore.report.record import Record
from ftcore.values import Event, EventKind

MOST_NOTICES = 200


def state_line(record: Record) -> Html:
    """Such as: finished after 2,000 of 2,000 steps."""
    total = f" of {record.total_steps:,}" if record.total_steps else ""
    reason = f": {record.manifest.reason}" if record.manifest.reason else ""
    state = tag("strong", record.state, class_=f"state {record.state}")
    return tag("p", state, f" after {record.step:,}{total} steps{reason}", class_="outcome")


def headline(record: Record) -> Html:
    """The figures that a reader looks for first."""
    return facts(_figures(record))


def _figures(record: Record) -> Iterator[tuple[str, str]]:
    """Each with its name; empty for what the run does not know."""
    loss = record.manifest.loss
    yield "held-out loss", before_after(loss.get("before"), loss.get("after"))
    yield from score_pairs(record)
    yield "best checkpoint", _best(record.manifest.best)
    yield "last training loss", _last(record, "loss")
    yield "tokens seen", _last(record, "tokens_seen")
    yield "tokens per second", _median(record, "tokens_per_second")
    yield "most memory", _most(record, "memory", " GiB")
    yield "time", duration(seconds_of(record))
    yield "parameters", parameters_line(parameters(record))
    yield "base model", base_of(record)
    yield "begun", moment(record.manifest.created)


def score_pairs(record: Record) -> Iterator[tuple[str, str]]:
    """Each score, before and after training."""
    before, after = (plain(record.manifest.scores.get(when, {})) for when in ("before", "after"))
    for name in {**before, **after}:
        yield name.replace("_", " "), before_after(before.get(name), after.get(name))


def base_of(record: Record) -> str:
    """The base model; one that lies in the run's folder, by its place there."""
    base = str(record.manifest.model.get("base") or "")
    return base.removeprefix(f"{record.manifest.folder or record.folder}/")


def plain(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores without the cells of tables, such as one cell of a confusion."""
    return {name: value for name, value in known(scores).items() if "/" not in name}


def known(scores: Any) -> dict[str, float]:
    """Those that are numbers: what was not a number is null in a file."""
    found = scores if isinstance(scores, Mapping) else {}
    return {str(name): value for name, value in found.items() if isinstance(value, int | float)}


def parameters(record: Record) -> Mapping[str, int]:
    """How many there are in `total`, and `trainable` ones; none if the run did not say."""
    found = record.latest(EventKind.MODEL).get("parameters") or record.manifest.model.get("parameters")
    return found if isinstance(found, Mapping) else {}


def parameters_line(found: Mapping[str, int]) -> str:
    """Such as: 1,235,814,400, of which 11,272,192 are trained (0.91%)."""
    total, trained = found.get("total"), found.get("trainable")
    if not total or trained is None:
        return ""
    return f"{total:,}, of which {trained:,} are trained ({100 * trained / total:.3g}%)"


def seconds_of(record: Record) -> float | None:
    """How long the run took, from its first line to its last, with what lies between if it was resumed."""
    if not record.manifest.ended:
        times = [event.time for event in record.events]
        return times[-1] - times[0] if times else None
    try:
        begun, ended = (datetime.fromisoformat(text) for text in (record.manifest.created, record.manifest.ended))
        return (ended - begun).total_seconds()
    except (ValueError, TypeError):
        return None


def moment(text: str) -> str:
    """A time as people write it, in UTC."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return text


def notices(record: Record) -> Html:
    """What was wrong, or may have been, each with what to try."""
    found = record.of(EventKind.NOTICE)
    if not found:
        return tag("p", "Nothing was noticed." if record.events else "The run kept no journal of notices.")
    lines = (_notice(event) for event in found[:MOST_NOTICES])
    more = len(found) - MOST_NOTICES
    note = tag("p", f"{more:,} more are in events.jsonl", class_="quiet") if more > 0 else ""
    return joined([tag("ol", *lines, class_="notices"), note])


def _notice(event: Event) -> Html:
    values = event.values
    advice = tag("p", values.get("advice", "")) if values.get("advice") else ""
    page = tag("p", "more in ", tag("code", values["page"]), class_="quiet") if values.get("page") else ""
    sign = tag("code", values.get("sign", ""), class_="sign")
    return tag(
        "li", tag("p", tag("strong", f"step {event.step:,}"), " ", values.get("text", ""), " ", sign), advice, page
    )


def marks_of(record: Record) -> list[Mark]:
    """What the charts mark: numbered notices, checkpoints, and where the run went on."""
    marks = [
        Mark(step=event.step, kind="notice", number=place, text=f"{place}: {event.values.get('text', '')}")
        for place, event in enumerate(record.of(EventKind.NOTICE)[:MOST_NOTICES], start=1)
    ]
    for event in record.of(EventKind.CHECKPOINT):
        marks.append(Mark(step=event.step, kind="checkpoint", text=f"checkpoint {event.values.get('path', '')}"))
    for event in record.of(EventKind.STARTED):
        start = event.values.get("from_step", 0)
        if isinstance(start, int) and start:
            marks.append(Mark(step=start, kind="resumed", text=f"the run went on from step {start:,}"))
    return marks


def before_after(before: float | None, after: float | None) -> str:
    """Such as: 3.2 -> 0.44 (-2.76); empty where neither is known."""
    if before is None and after is None:
        return ""
    if before is None or after is None:
        return f"{number(before)} before, {number(after)} after"
    return f"{number(before)} \N{RIGHTWARDS ARROW} {number(after)} ({change(before, after)})"


def _best(best: Mapping[str, Any]) -> str:
    value = best.get("value")
    return f"step {best.get('step')}: {best.get('metric')} {number(value)}" if isinstance(value, int | float) else ""


def _last(record: Record, name: str) -> str:
    return number(record.curves[name].summary.last) if name in record.curves else ""


def _median(record: Record, name: str) -> str:
    return f"{number(record.curves[name].summary.median)} (median)" if name in record.curves else ""


def _most(record: Record, name: str, unit: str) -> str:
    found = record.curves[name].summary.most if name in record.curves else None
    return f"{number(found[0])}{unit}" if found else ""
