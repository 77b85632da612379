"""Rows that are read, formatted, and proved to train what they say; without the model's weights."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from ftcore.errors import PluginError
from ftcore.plugins import Plugins
from ftcore.proof import prove_labels
from ftcore.rows import split_rows
from ftcore.values import Drop, Example, PreparedData, Row, Rows, Run

TWIN = "twin of a training row"


@attrs.frozen(kw_only=True)
class Prepared:
    """What a run trains on. `fingerprint` is that of the raw rows; `proved` counts the rows that were checked."""

    processor: Any
    data: PreparedData
    fingerprint: str
    proved: int


def prepare(plugins: Plugins, run: Run, stage: Callable[[str], None]) -> Prepared:
    """Read, format and prove the rows. Raises `RunError` for wrong labels, `PluginError` for a wrong ledger."""
    settings = run.profile
    stage("reading rows")
    rows = split_rows(plugins.load_rows(run), settings.data.validation, settings.run.seed)
    processor = plugins.load_processor(run, rows)
    stage("formatting data")
    data = plugins.format_dataset(run, rows, processor)
    fault = _ledger_fault(data, rows)
    if fault:
        raise PluginError(f"format_dataset: {', '.join(plugins.implementers('format_dataset'))} {fault}")
    data = _without_twins(data)
    proved = prove_labels(data, processor, settings.run.seed, rows)
    return Prepared(processor=processor, data=data, fingerprint=rows.fingerprint, proved=proved)


def _ledger_fault(data: PreparedData, rows: Rows) -> str:
    """Every row that went in must be accounted for, and none may change sides."""
    ledger = data.ledger
    came, counted = len(rows.train) + len(rows.validation), ledger.rows
    if came != counted:
        return f"was given {came} rows, but its ledger says {counted}; count every row, kept or dropped"
    for name, examples, count in (
        ("trained", data.train, ledger.trained),
        ("held out", data.validation, ledger.held_out),
    ):
        if len(examples) != count:
            return f"returned {len(examples)} {name} rows, but its ledger says {count}; they must agree"
    return _strange(data.train, rows.train, "train") or _strange(data.validation, rows.validation, "validation")


def _strange(examples: Sequence[Example], rows: Sequence[Row], side: str) -> str:
    origins = {row.origin for row in rows}
    strange = next((example.origin for example in examples if example.origin not in origins), None)
    if strange is None:
        return ""
    return f"put {strange!r} among the {side} rows, where it was given no such origin; keep each row's side and origin"


def _without_twins(data: PreparedData) -> PreparedData:
    """Rows that differ in a column that is not rendered are the same to the model: such held-out rows are dropped."""
    trained = {_key(example) for example in data.train}
    twins = {index for index, example in enumerate(data.validation) if _key(example) in trained}
    if not twins:
        return data
    dropped = tuple(Drop(origin=data.validation[index].origin, reason=TWIN) for index in sorted(twins))
    validation = [example for index, example in enumerate(data.validation) if index not in twins]
    ledger = attrs.evolve(data.ledger, held_out=len(validation), dropped=(*data.ledger.dropped, *dropped))
    return attrs.evolve(data, validation=validation, ledger=ledger)


def _key(example: Example) -> tuple[bytes, str]:
    return array("q", example.input_ids).tobytes(), repr(example.features)
