"""Format ranges of rows into files, in this process or in others, and count where each row went."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.index import Broken, Index, too_many_broken
from ftcore.data.pool import in_order, processes
from ftcore.data.store import SUFFIX, Stored, Writer, key_of
from ftcore.errors import PluginError, RowError, RunError
from ftcore.files import write_json
from ftcore.values import MASKED, Drop, Example, Format, Row, Run

BATCH = 512
"""Rows that a format is given at once."""

ROWS_A_FILE, FILES = 4096, 128
"""Fewest rows of a file, and most files: each one that is mapped holds a descriptor."""

TOO_LONG = "longer than train.max_length"


@attrs.frozen(kw_only=True)
class Encoded:
    """Every sound row, formatted. `numbers` are those of the kept rows, in the order of `examples`."""

    examples: Stored
    numbers: array[int]
    lengths: array[int]
    keys: array[int]
    dropped: tuple[tuple[int, Drop], ...]
    broken: tuple[Broken, ...]


def encode_rows(run: Run, index: Index, format_: Format, folder: Path) -> None:
    """Write what `read_encoded` reads. Raises `RunError` for a row that the profile does not bear."""
    count, data = len(index.places), run.profile.data
    size = max(ROWS_A_FILE, -(-count // FILES))
    task = _Encoder(
        rows=index.rows,
        places=index.places,
        encode=format_.encode,
        never_trained=format_.never_trained,
        max_length=run.profile.train.max_length,
        long_rows=data.long_rows,
        folder=folder,
    )
    ranges = [(start, min(start + size, count)) for start in range(0, count, size)]
    workers = min(processes(data.workers, count), len(ranges)) if task.travels() else 1
    whole = _Shard()
    for shard in in_order(task, ranges, workers):
        whole.extend(shard)
        allowed = data.max_bad_rows - len(index.broken)
        if len(whole.broken) > allowed:
            raise too_many_broken(whole.broken[allowed], data.max_bad_rows + 1, data.max_bad_rows)
    _write(folder, whole)


def read_encoded(folder: Path) -> Encoded:
    """What `encode_rows` wrote, mapped."""
    document = json.loads((folder / "encoded.json").read_text("utf-8"))
    columns = {name: array(code, (folder / name).read_bytes()) for name, code in _COLUMNS.items()}
    dropped = [(number, Drop(origin=origin, reason=reason)) for number, origin, reason in document["dropped"]]
    broken = [Broken(**values) for values in document["broken"]]
    return Encoded(examples=Stored(folder), dropped=tuple(dropped), broken=tuple(broken), **columns)


_COLUMNS = {"numbers": "Q", "lengths": "I", "keys": "Q"}


@attrs.define(kw_only=True)
class _Shard:
    """What became of a range of rows."""

    numbers: array[int] = attrs.field(factory=lambda: array("Q"))
    lengths: array[int] = attrs.field(factory=lambda: array("I"))
    keys: array[int] = attrs.field(factory=lambda: array("Q"))
    dropped: list[tuple[int, str, str]] = attrs.field(factory=list)
    broken: list[Broken] = attrs.field(factory=list)

    def extend(self, other: _Shard) -> None:
        for field in attrs.fields(_Shard):
            getattr(self, field.name).extend(getattr(other, field.name))


def _write(folder: Path, whole: _Shard) -> None:
    for name in _COLUMNS:
        (folder / name).write_bytes(getattr(whole, name).tobytes())
    broken = [attrs.asdict(broken) for broken in whole.broken]
    write_json(folder / "encoded.json", {"dropped": whole.dropped, "broken": broken})


@attrs.frozen(kw_only=True)
class _Encoder:
    """The task: format a range of the sound rows into one file. Travels to other processes."""

    rows: Sequence[Row]
    places: array[int]
    encode: Any
    never_trained: frozenset[int]
    max_length: int
    long_rows: str
    folder: Path

    def travels(self) -> bool:
        """Whether other processes can be given the formatter."""
        import pickle

        try:
            pickle.dumps(self.encode)
        except Exception:  # whatever an object raises that does not pickle
            return False
        return True

    def __call__(self, start: int, stop: int) -> _Shard:
        shard = _Shard()
        with Writer(self.folder / f"{start:012d}{SUFFIX}") as writer:
            for first in range(start, stop, BATCH):
                numbers = range(first, min(first + BATCH, stop))
                writer.write(list(self._kept(numbers, shard)))
        return shard

    def _kept(self, numbers: range, shard: _Shard) -> Iterator[Example]:
        rows = [self.rows[self.places[number]] for number in numbers]
        for number, row, answer in zip(numbers, rows, self._answers(rows), strict=True):
            fitted = self._fitted(answer) if isinstance(answer, Example) else answer
            if isinstance(fitted, RowError):
                place = self.places[number]
                shard.broken.append(Broken(place=place, origin=row.origin, reason=fitted.reason, raw=_raw(row)))
            elif isinstance(fitted, Drop):
                shard.dropped.append((number, row.origin, fitted.reason))
            else:
                shard.numbers.append(number)
                shard.lengths.append(len(fitted.input_ids))
                shard.keys.append(key_of(fitted))
                yield attrs.evolve(fitted, origin=row.origin) if fitted.origin != row.origin else fitted

    def _answers(self, rows: Sequence[Row]) -> list[Example | Drop | RowError]:
        try:
            answers: list[Example | Drop | RowError] = list(self.encode(rows))
        except RowError:  # one of them; asked again one by one
            return [_alone(self.encode, row) for row in rows]
        if len(answers) != len(rows):
            raise PluginError(f"format_dataset: encode was given {len(rows)} rows and answered {len(answers)}")
        return answers

    def _fitted(self, example: Example) -> Example | Drop:
        """The example, cut or refused as `data.long_rows` says if it is too long."""
        extra = len(example.input_ids) - self.max_length
        if extra <= 0:
            return example
        if self.long_rows == "error":
            raise RunError(
                f"{example.origin}: the row has {len(example.input_ids)} tokens, over train.max_length "
                f'({self.max_length}); raise it, shorten the row or set data.long_rows = "drop"'
            )
        cut = (
            _cut(example, extra)
            if self.long_rows == "cut" and self.never_trained.isdisjoint(example.input_ids)
            else None
        )
        return cut or Drop(origin=example.origin, reason=TOO_LONG)


def _cut(example: Example, extra: int) -> Example | None:
    """Without `extra` tokens after the first one; None if a trained token is among them."""
    if any(label != MASKED for label in example.labels[: extra + 1]):
        return None
    ids, labels = ([column[0], *column[extra + 1 :]] for column in (example.input_ids, example.labels))
    return attrs.evolve(example, input_ids=ids, labels=labels)


def _alone(encode: Any, row: Row) -> Example | Drop | RowError:
    try:
        [answer] = encode([row])
    except RowError as error:
        return error
    return answer  # type: ignore[no-any-return]


def _raw(row: Row) -> str:
    return json.dumps(row.values, ensure_ascii=False, default=repr)[:10_000]
