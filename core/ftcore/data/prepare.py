"""Rows that are read, split, formatted, and proved to train what they say; without the model's weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.cache import cached, key_for
from ftcore.data.encode import Encoded, encode_rows, read_encoded, require_few_broken
from ftcore.data.index import Broken, Index, index_rows
from ftcore.data.keys import made_by
from ftcore.data.proof import prove_labels
from ftcore.data.rows import Split, rows_of, split_rows
from ftcore.data.sequences import Chosen
from ftcore.errors import RunError
from ftcore.files import disk_is_full, replace_text
from ftcore.plugins import Plugins
from ftcore.values import Drop, Format, Ledger, PreparedData, Row, Rows, Run

TWIN = "twin of a training row"
LEFT_OUT = "left out by data.weights"
BROKEN = "broken row"
BAD_ROWS = "bad_rows.jsonl"
SCRATCH = ".prepared"


@attrs.frozen(kw_only=True)
class Prepared:
    """What a run trains on. `fingerprint` is over its rows, raw and formatted; `proved` counts the checked ones.

    `format` makes tokens of further rows; `rows` are the raw ones, in the order of `data`.
    """

    processor: Any
    data: PreparedData
    fingerprint: str
    proved: int
    format: Format
    rows: Rows


def prepare(plugins: Plugins, run: Run, stage: Callable[[str], None]) -> Prepared:
    """Read, format and prove the rows. Raises `RunError` for wrong labels, or too many broken rows."""
    stage("reading rows")
    index = index_rows(run, plugins.load_rows(run), *made_by(plugins, "load_rows"))
    split = split_rows(run, index)
    rows = rows_of(index, split)
    processor = plugins.load_processor(run, rows)
    stage("formatting data")
    format_ = plugins.format_dataset(run, rows, processor)
    encoded = _encoded(plugins, run, index, format_)
    broken = [*index.broken, *encoded.broken]
    _set_aside(broken, run)
    data, kept = assemble(index, split, encoded, format_, broken)
    _require_held_out(run, index, split, data)
    proved = prove_labels(data, format_.processor, run.profile.run.seed, kept)
    fingerprint = _fingerprint(index, encoded)
    return Prepared(
        processor=format_.processor, data=data, fingerprint=fingerprint, proved=proved, format=format_, rows=kept
    )


def _fingerprint(index: Index, encoded: Encoded) -> str:
    """Over the rows' content, and what the model sees of them: a changed image is changed data."""
    return hashlib.sha256(index.fingerprint.encode() + encoded.keys.tobytes()).hexdigest()


def assemble(
    index: Index, split: Split, encoded: Encoded, format_: Format, broken: Sequence[Broken] = ()
) -> tuple[PreparedData, Rows]:
    """The formatted rows of each side, and the raw rows that they are made from, in the same order."""
    place_of = _places(encoded, len(index.places))
    train, again, held = (_formatted(rows, place_of) for rows in (split.train, split.again, split.validation))
    twins = _twins(encoded, train, held)
    validation = array("Q", (place for place in held if encoded.keys[place] not in twins))
    twin_rows = (encoded.examples.origin(place) for place in held if encoded.keys[place] in twins)
    order = train + again
    ledger = Ledger(
        rows=len(index.places) + len(index.broken),
        trained=len(train),
        held_out=len(validation),
        dropped=(
            *_dropped(index, split, encoded, place_of, broken),
            *(Drop(origin=origin, reason=TWIN) for origin in twin_rows),
        ),
        repeated=len(again),
    )
    if not train:
        raise RunError(_nothing_left(ledger))
    data = PreparedData(
        train=Chosen(encoded.examples, order),
        validation=Chosen(encoded.examples, validation),
        lengths=array("I", (encoded.lengths[place] for place in order)),
        collate=format_.collate,
        ledger=ledger,
        end_of_turn=format_.end_of_turn,
        other_ends=format_.other_ends,
        inner_ends=format_.inner_ends,
        never_trained=format_.never_trained,
        trains=format_.trains,
        packable=format_.packable,
    )
    raw, raw_validation = (_raw(index, encoded, places) for places in (order, validation))
    return data, Rows(train=raw, validation=raw_validation, fingerprint=index.fingerprint)


def clean(run: Run) -> None:
    """Remove what is of use to this process only."""
    shutil.rmtree(_scratch_folder(run), ignore_errors=True)


def _scratch_folder(run: Run) -> Path:
    """Each process formats for itself what cannot be kept."""
    rank = run.world.rank
    return run.folder / (f"{SCRATCH}-{rank}" if rank else SCRATCH)


def _encoded(plugins: Plugins, run: Run, index: Index, format_: Format) -> Encoded:
    maker, code = made_by(plugins, "format_dataset")

    def build(folder: Path) -> None:
        encode_rows(run, index, format_, folder, maker)

    if format_.fingerprint:
        folder = cached(run, "formatted", _key(run, index, format_, code), build)
    else:
        folder = _scratch(run, build)
    encoded = read_encoded(folder)
    require_few_broken(run, index, encoded.broken)  # an earlier run may have borne more
    return encoded


def _scratch(run: Run, build: Callable[[Path], None]) -> Path:
    """A folder of this run only, for rows that cannot be kept."""
    clean(run)
    folder = _scratch_folder(run)
    try:
        folder.mkdir(parents=True)
        build(folder)
    except OSError as error:
        if disk_is_full(error):
            raise RunError(f"no room for prepared rows in {folder}; free some, or set run.output_dir") from error
        raise
    return folder


def _key(run: Run, index: Index, format_: Format, code: str) -> str:
    """Of all that the formatted rows depend on."""
    profile = run.profile
    parts = [
        code,
        format_.fingerprint,
        sorted(format_.never_trained),
        [index.fingerprint, index.origins],
        dict(profile.data.columns),
        [profile.train.max_length, profile.data.long_rows],
    ]
    return key_for(parts)


def _set_aside(broken: Sequence[Broken], run: Run) -> None:
    if not broken or not run.folder.is_dir() or not run.world.is_main:
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


def _formatted(rows: array[int], place_of: array[int]) -> array[int]:
    """Where they lie among the formatted ones, those that are there."""
    return array("Q", (place for row in rows if (place := place_of[row]) != NOWHERE))


def _raw(index: Index, encoded: Encoded, places: array[int]) -> Chosen[Row]:
    return Chosen(index.rows, array("Q", (index.places[encoded.numbers[place]] for place in places)))


def _dropped(
    index: Index, split: Split, encoded: Encoded, place_of: array[int], broken: Sequence[Broken]
) -> Iterator[Drop]:
    """Every row that was set aside on the way, once: one that a weight leaves out may be broken or dropped as well."""
    left_out = bytearray(len(index.places))  # a byte a row, where a set takes a hundred
    for number in split.left_out:
        left_out[number] = True
        place = place_of[number]
        origin = encoded.examples.origin(place) if place != NOWHERE else index.rows[index.places[number]].origin
        yield Drop(origin=origin, reason=LEFT_OUT)
    yield from (drop for number, drop in encoded.dropped if not left_out[number])
    for row in broken:
        number = bisect_left(index.places, row.place)
        read = number < len(index.places) and index.places[number] == row.place
        if not (read and left_out[number]):
            yield Drop(origin=row.origin, reason=BROKEN)


def _twins(encoded: Encoded, train: array[int], held: array[int]) -> set[int]:
    """Keys of held-out rows that are trained as well: they differ in a column that is not rendered, say."""
    keys = {encoded.keys[place] for place in held}
    return keys.intersection(encoded.keys[place] for place in train)


def _require_held_out(run: Run, index: Index, split: Split, data: PreparedData) -> None:
    """Raise `RunError` where rows are named to be held out, or evaluations are asked for, and no such row is left."""
    brought = len(index.rows) - sum(len(part.rows) for part in index.parts)
    count = brought or len(split.validation)
    if data.validation or not count or not (brought or run.profile.train.eval_steps):
        return
    if data.ledger.reasons.get(TWIN) == count:
        mend = "name other rows to hold out" if brought else "set data.group to a column whose values twins share"
        raise RunError(f"all {count} held-out rows are twins of training rows; {mend}")
    raise RunError(f"all {count} held-out rows were dropped ({_counts(data.ledger)}); mend them, or hold out more")


def _nothing_left(ledger: Ledger) -> str:
    return f"nothing left to train: all training rows were dropped ({_counts(ledger)}); mend them"


def _counts(ledger: Ledger) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in ledger.reasons.items())
