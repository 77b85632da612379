"""The rest of a report: speed and memory, where the rows went, exports with their proofs, settings, versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from ftcore.files import finite
from ftcore.report.charts import label_of, natural
from ftcore.report.curves import Curve
from ftcore.report.markup import Html, facts, joined, number, table, tag
from ftcore.report.outcome import base_of, moment
from ftcore.report.record import Record
from ftcore.values import EventKind

COLUMNS = ("measured", "median", "mean", "lowest", "highest", "last")


def speed(curves: Mapping[str, Curve]) -> Html:
    """Throughput and memory in figures; empty for a run that measured none."""
    order = {name: place for place, name in enumerate(MEASURED)}
    names = [name for name in curves if name in MEASURED or name.startswith("system/")]
    rows = [
        _measured(name, curves[name])
        for name in sorted(names, key=lambda name: (order.get(name, len(order)), natural(name)))
    ]
    waited = _waited(curves)
    parts = [table("Memory and throughput in figures", COLUMNS, rows, numeric=range(1, len(COLUMNS)))] if rows else []
    return joined([*parts, *([tag("p", waited)] if waited else [])])


MEASURED = {
    "tokens_per_second": "tokens per second",
    "tokens": "tokens of a step",
    "seconds": "seconds of a step",
    "data_seconds": "seconds of it waiting for batches",
    "memory": "GiB on the device, highest so far",
}
UNITS = {"memory": "GiB", "utilization": "% in use", "temperature": "\N{DEGREE SIGN}C", "power": "W"}


def _measured(name: str, curve: Curve) -> list[str]:
    found = curve.summary
    ends = (found.least[0] if found.least else None, found.most[0] if found.most else None)
    return [_title(name), *(number(value) for value in (found.median, found.mean, *ends, found.last))]


def _title(name: str) -> str:
    if name in MEASURED:
        return MEASURED[name]
    unit = UNITS.get(name.rpartition("/")[2])
    return f"{label_of(name)}, {unit}" if unit and "gpu" in name else _host(name)


def _host(name: str) -> str:
    known = {"system/cpu": "CPU, % in use", "system/disk_read": "GiB read from disks"}
    return known.get(name) or f"{label_of(name)}{', GiB' if name.endswith('memory') else ''}"


def _waited(curves: Mapping[str, Curve]) -> str:
    if "seconds" not in curves or "data_seconds" not in curves:
        return ""
    whole, waited = (curves[name].summary.mean for name in ("seconds", "data_seconds"))
    return (
        f"{100 * waited / whole:.1f}% of the time of a step was spent waiting for batches."
        if whole and waited is not None
        else ""
    )


def ledger(record: Record) -> Html:
    """Where every row went; empty before rows were formatted."""
    data = record.manifest.data
    found = data.get("ledger") or {}
    if not found:
        return Html("")
    dropped = found.get("dropped") or {}
    parts = [("trained", found.get("trained", 0)), ("held out", found.get("held_out", 0))]
    parts += [(f"dropped: {reason}", count) for reason, count in dropped.items()]
    total = sum(count for _, count in parts)
    rows = [[name, f"{count:,}"] for name, count in parts]
    rows.append([tag("strong", "rows in"), tag("strong", f"{found.get('rows', 0):,}")])
    sums = "They add up." if total == found.get("rows") else f"They do not add up: the parts make {total:,}."
    again = (
        f" In an epoch {found['repeated']:,} rows come again, since data.weights repeats them."
        if found.get("repeated")
        else ""
    )
    proved = record.latest(EventKind.DATA).get("proved")
    checked = f" The labels of {proved:,} rows were proved before training." if isinstance(proved, int) else ""
    return joined(
        [table("Where the rows went", ["rows", "count"], rows, numeric=(1,)), tag("p", f"{sums}{again}{checked}")]
    )


def exports(record: Record) -> Html:
    """What was shipped and how far it was proved; empty for nothing."""
    rows = [_export(record.folder, artifact) for artifact in record.manifest.exports]
    columns = ["kind", "file", "verdict", "figures", "details"]
    return table("Exports and their proofs", columns, rows) if rows else Html("")


def _export(folder: Path, artifact: Mapping[str, Any]) -> list[object]:
    proof = artifact.get("proof", {})
    verdict = str(proof.get("verdict", ""))
    figures = facts((name, number(value)) for name, value in (proof.get("figures") or {}).items())
    note = tag("p", proof["note"], class_="quiet") if proof.get("note") else ""
    state = tag("strong", verdict, class_=f"state {verdict.replace(' ', '-')}")
    path = Path(str(artifact.get("path", "")))
    place = path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path
    details = facts((name, value) for name, value in (artifact.get("details") or {}).items())
    return [artifact.get("kind", ""), tag("code", place), joined([state, note]), figures, details]


def configuration(record: Record) -> Html:
    """The resolved profile."""
    text = tomli_w.dumps(_without_none(record.manifest.settings))
    return tag("pre", text, class_="toml", tabindex=0, role="group", aria_label="resolved profile as TOML")


def _without_none(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value if item is not None] if isinstance(value, list | tuple) else value


def versions(record: Record) -> Html:
    """Libraries, plugins, the machine, and how often the run went on."""
    manifest, environment = record.manifest, dict(record.manifest.environment)
    bits = environment.pop("bits", {})
    machine = [*_said(environment), *_said(bits if isinstance(bits, Mapping) else {})]
    plugins = ([p.get("name", ""), p.get("distribution", ""), p.get("version", "")] for p in manifest.plugins)
    parts = [
        facts(machine),
        table("Libraries", ["library", "version"], manifest.versions.items()),
        table("Plugins", ["plugin", "distribution", "version"], plugins),
        facts(_fingerprints(record)),
    ]
    return joined(parts)


def _fingerprints(record: Record) -> Iterable[tuple[str, object]]:
    model = record.manifest.model
    return [
        ("data", tag("code", record.manifest.data.get("fingerprint", ""))),
        ("base model", base_of(record)),
        ("revision", str(model.get("revision") or "")),
        ("model fingerprint", str(model.get("fingerprint") or "")),
        ("licence", str(model.get("license") or "")),
        ("begun", moment(record.manifest.created)),
        ("ended", moment(record.manifest.ended)),
        (
            "went on",
            f"{number(len(record.manifest.resumes))} times"
            if len(record.manifest.resumes) > 1
            else "once"
            if record.manifest.resumes
            else "",
        ),
    ]


def _said(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in finite(found).items():
        yield str(name), "" if value is None else str(value)
