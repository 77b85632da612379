"""Rows that are read, split, formatted, and proved to train what they say; without the model's weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore import __version__
from ftcore.data.cache import cached
from ftcore.data.encode import Encoded, encode_rows, read_encoded
from ftcore.data.index import Broken, Index, index_rows, too_many_broken
from ftcore.data.proof import prove_labels
from ftcore.data.rows import Split, rows_of, split_rows
from ftcore.data.sequences import Chosen
from ftcore.errors import RunError
from ftcore.files import replace_text
from ftcore.plugins import Active, Plugins
from ftcore.preflight import as_table
from ftcore.values import Drop, Example, Format, Ledger, PreparedData, Row, Rows, Run

TWIN = "twin of a training row"
LEFT_OUT = "left out by data.weights"
BROKEN = "broken row"
BAD_ROWS = "bad_rows.jsonl"
SCRATCH = ".prepared"


@attrs.frozen(kw_only=True)
class Prepared:
    """What a run trains on. `fingerprint` is that of the raw rows; `proved` counts the rows that were checked."""

    processor: Any
    data: PreparedData
    fingerprint: str
    proved: int


def prepare(plugins: Plugins, run: Run, stage: Callable[[str], None]) -> Prepared:
    """Read, format and prove the rows. Raises `RunError` for wrong labels, or too many broken rows."""
    stage("reading rows")
    index = index_rows(run, plugins.load_rows(run))
    split = split_rows(run, index)
    rows = rows_of(index, split)
    processor = plugins.load_processor(run, rows)
    stage("formatting data")
    format_ = plugins.format_dataset(run, rows, processor)
    encoded = _encoded(plugins, run, index, format_)
    broken = [*index.broken, *encoded.broken]
    _set_aside(broken, run)
    data, kept = assemble(index, split, encoded, format_, broken)
    proved = prove_labels(data, format_.processor, run.profile.run.seed, kept)
    return Prepared(processor=format_.processor, data=data, fingerprint=index.fingerprint, proved=proved)


def assemble(
    index: Index, split: Split, encoded: Encoded, format_: Format, broken: Sequence[Broken] = ()
) -> tuple[PreparedData, Rows]:
    """The formatted rows of each side, and the raw rows that they are made from, in the same order."""
    place_of = _places(encoded, len(index.places))
    train = _kept(split.train, place_of)
    trained = {encoded.keys[place_of[row]] for row in train}
    held = _kept(split.validation, place_of)
    validation = array("Q", (row for row in held if encoded.keys[place_of[row]] not in trained))
    repeated = _kept(split.again, place_of)
    order = train + repeated
    ledger = Ledger(
        rows=len(index.places) + len(index.broken),
        trained=len(train),
        held_out=len(validation),
        dropped=(*_dropped(index, split, encoded, broken), *_twins(encoded, place_of, held, trained)),
        repeated=len(repeated),
    )
    if not train:
        raise RunError(_nothing_left(ledger))
    data = PreparedData(
        train=_view(encoded, place_of, order),
        validation=_view(encoded, place_of, validation),
        lengths=array("I", (encoded.lengths[place_of[row]] for row in order)),
        collate=format_.collate,
        ledger=ledger,
        end_of_turn=format_.end_of_turn,
        never_trained=format_.never_trained,
        trains=format_.trains,
        packable=format_.packable,
    )
    return data, Rows(train=_raw(index, order), validation=_raw(index, validation), fingerprint=index.fingerprint)


def clean(run: Run) -> None:
    """Remove what is of use to one process only."""
    shutil.rmtree(run.folder / SCRATCH, ignore_errors=True)


def _encoded(plugins: Plugins, run: Run, index: Index, format_: Format) -> Encoded:
    if format_.fingerprint:
        key = _key(plugins, run, index, format_)
        folder = cached(run, "formatted", key, lambda folder: encode_rows(run, index, format_, folder))
    else:
        clean(run)
        folder = run.folder / SCRATCH
        folder.mkdir(parents=True)
        encode_rows(run, index, format_, folder)
    encoded = read_encoded(folder)
    allowed = run.profile.data.max_bad_rows - len(index.broken)
    if len(encoded.broken) > allowed:  # an earlier run bore more
        raise too_many_broken(encoded.broken[allowed], run.profile.data.max_bad_rows + 1, allowed)
    return encoded


def _key(plugins: Plugins, run: Run, index: Index, format_: Format) -> str:
    """All that the formatted rows depend on."""
    profile = run.profile
    parts = [
        __version__,
        _code_digest("ftcore"),
        [_identity(plugin) for plugin in plugins.active("format_dataset")],
        format_.fingerprint,
        sorted(format_.never_trained),
        [index.fingerprint, index.origins],
        dict(profile.data.columns),
        [profile.train.max_length, profile.data.long_rows],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identity(plugin: Active) -> list[Any]:
    source = plugin.source
    code = _code_digest(plugin.cls.__module__.partition(".")[0])
    return [source.name, source.distribution, source.version, as_table(plugin.config), code]


def _code_digest(package: str) -> str:
    """A SHA-256 over a package's source: its author must not train rows that yesterday's code made."""
    module = sys.modules[package]
    roots = [Path(root) for root in getattr(module, "__path__", [])] or [Path(module.__file__ or "")]
    files = [file for root in roots for file in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def _set_aside(broken: Sequence[Broken], run: Run) -> None:
    if not broken or not run.folder.is_dir():
        return
    records = ({"origin": row.origin, "reason": row.reason, "raw": row.raw} for row in broken)
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    replace_text(run.folder / BAD_ROWS, text)


NOWHERE = 2**64 - 1


def _places(encoded: Encoded, count: int) -> array[int]:
    """Where each sound row lies among the formatted ones."""
    places = array("Q", [NOWHERE]) * count
    for place, number in enumerate(encoded.numbers):
        places[number] = place
    return places


def _kept(rows: array[int], place_of: array[int]) -> array[int]:
    return array("Q", (row for row in rows if place_of[row] != NOWHERE))


def _view(encoded: Encoded, place_of: array[int], rows: array[int]) -> Chosen[Example]:
    return Chosen(encoded.examples, array("Q", (place_of[row] for row in rows)))


def _raw(index: Index, rows: array[int]) -> Chosen[Row]:
    return Chosen(index.rows, array("Q", (index.places[row] for row in rows)))


def _dropped(index: Index, split: Split, encoded: Encoded, broken: Sequence[Broken]) -> list[Drop]:
    left_out = set(split.left_out)
    drops = [drop for number, drop in encoded.dropped if number not in left_out]
    drops += [Drop(origin=index.rows[index.places[row]].origin, reason=LEFT_OUT) for row in split.left_out]
    places = {index.places[row] for row in left_out}
    return drops + [Drop(origin=row.origin, reason=BROKEN) for row in broken if row.place not in places]


def _twins(encoded: Encoded, place_of: array[int], held: array[int], trained: set[int]) -> list[Drop]:
    """Rows that differ in a column that is not rendered are the same to the model: such held-out rows are dropped."""
    twins = [place_of[row] for row in held if encoded.keys[place_of[row]] in trained]
    return [Drop(origin=encoded.examples[place].origin, reason=TWIN) for place in twins]


def _nothing_left(ledger: Ledger) -> str:
    counts = ", ".join(f"{reason}: {count}" for reason, count in ledger.reasons.items())
    return f"nothing left to train: all training rows were dropped ({counts}); mend them"
