"""Format ranges of rows into files, in this process or in others, and count where each row went."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.index import SHOWN_RAW, Broken, Index, too_many_broken
from ftcore.data.pool import in_order, processes
from ftcore.data.store import SUFFIX, Stored, Writer, key_of
from ftcore.errors import FtcoreError, Interrupted, PluginError, RowError, RunError
from ftcore.files import disk_is_full, write_json
from ftcore.values import MASKED, TOO_LONG, Drop, Example, Format, Row, Run

BATCH = 512
"""Rows that a format is given at once."""

ROWS_A_FILE, FILES = 4096, 128
"""Fewest rows of a file, and most files: each one that is mapped holds a descriptor."""

_Answer = Example | Drop | RowError


@attrs.frozen(kw_only=True)
class Encoded:
    """Every sound row, formatted. `numbers` are those of the kept rows, in the order of `examples`."""

    examples: Stored
    numbers: array[int]
    lengths: array[int]
    keys: array[int]
    dropped: tuple[tuple[int, Drop], ...]
    broken: tuple[Broken, ...]


def encode_rows(run: Run, index: Index, format_: Format, folder: Path, maker: str = "format_dataset") -> None:
    """Write what `read_encoded` reads.

    Raises `RunError` for a row that the profile does not bear, and `PluginError` that names the `maker` of the
    format and the row for what else `encode` raises, or answers.
    """
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
        maker=maker,
    )
    ranges = [(start, min(start + size, count)) for start in range(0, count, size)]
    whole = _Shard()
    for shard in in_order(task, ranges, processes(data.workers, count)):
        whole.extend(shard)
        require_few_broken(run, index, whole.broken)
    _write(folder, whole)


def require_few_broken(run: Run, index: Index, broken: Sequence[Broken]) -> None:
    """Raise `RunError` when `broken` and those that could not be read are more than `data.max_bad_rows`."""
    most = run.profile.data.max_bad_rows
    allowed = most - len(index.broken)
    if len(broken) > allowed:
        raise too_many_broken(broken[allowed], most + 1, most)


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
    maker: str

    def __call__(self, start: int, stop: int) -> _Shard:
        shard = _Shard()
        with Writer(self.folder / f"{start:012d}{SUFFIX}") as writer:
            for first in range(start, stop, BATCH):
                numbers = range(first, min(first + BATCH, stop))
                rows = [self.rows[self.places[number]] for number in numbers]
                with self._named(f"{rows[0].origin} to {rows[-1].origin}"):
                    answers = self._answers(rows)
                    writer.write(list(self._kept(numbers, rows, answers, shard)))
        return shard

    def _kept(
        self, numbers: range, rows: Sequence[Row], answers: Sequence[_Answer], shard: _Shard
    ) -> Iterator[Example]:
        for number, row, answer in zip(numbers, rows, answers, strict=True):
            fitted = self._fitted(answer, row) if isinstance(answer, Example) else answer
            if isinstance(fitted, RowError):
                place = self.places[number]
                shard.broken.append(Broken(place=place, origin=row.origin, reason=fitted.reason, raw=_raw(row)))
            elif isinstance(fitted, Drop):
                self._require_dropped(fitted)
                shard.dropped.append((number, row.origin, str(fitted.reason)))
            elif isinstance(fitted, Example):
                shard.numbers.append(number)
                shard.lengths.append(len(fitted.input_ids))
                shard.keys.append(key_of(fitted, has_files=self._has_images(fitted)))
                yield fitted
            else:
                raise self._wrong(f"answered a {type(fitted).__name__} for {row.origin}, not an Example or a Drop")

    def _answers(self, rows: Sequence[Row]) -> list[_Answer]:
        try:
            answers = list(self.encode(rows))
        except Exception as error:
            if isinstance(error, FtcoreError) and not isinstance(error, RowError):
                raise
            return [self._alone(row) for row in rows]  # which of them is it?
        if len(answers) != len(rows):
            raise self._wrong(f"was given {len(rows)} rows and answered {len(answers)}")
        return answers

    def _alone(self, row: Row) -> _Answer:
        try:
            with self._named(row.origin):
                answer: _Answer
                [answer] = self.encode([row])
        except RowError as error:
            return error
        return answer

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        """Failures of the plugin name it, as in a hook: also `SystemExit`, which must not end a run as a success."""
        try:
            yield
        except (FtcoreError, Interrupted):
            raise
        except BaseException as error:
            if disk_is_full(error):
                raise
            raise self._wrong(f"failed at {where}: {type(error).__name__}: {error}") from error

    def _wrong(self, what: str) -> PluginError:
        return PluginError(f"{self.maker}: encode {what}")

    def _fitted(self, example: Example, row: Row) -> Example | Drop:
        """The example, cut or refused as `data.long_rows` says if it is too long."""
        if example.origin != row.origin:
            raise self._wrong(f"answered {example.origin} for {row.origin}; its answers must be in the rows' order")
        if min(example.input_ids, default=0) < 0:
            raise self._wrong(f"answered a negative token for {row.origin}")
        extra = len(example.input_ids) - self.max_length
        if extra <= 0:
            return example
        if self.long_rows == "error":
            raise self._too_long(example.origin, f"{len(example.input_ids)}")
        cut = _cut(example, extra) if self.long_rows == "cut" and self._may_be_cut(example) else None
        return cut or Drop(origin=example.origin, reason=TOO_LONG)

    def _require_dropped(self, drop: Drop) -> None:
        """A formatter may tell that a row is too long before it has all its tokens."""
        if drop.reason == TOO_LONG and self.long_rows == "error":
            raise self._too_long(drop.origin, "too many")

    def _too_long(self, origin: str, count: str) -> RunError:
        return RunError(
            f"{origin}: the row has {count} tokens, over train.max_length ({self.max_length}); raise it, shorten the "
            'row or set data.long_rows = "drop"'
        )

    def _may_be_cut(self, example: Example) -> bool:
        """Not a row with image tokens, nor one with a feature that has an item for each token."""
        return not self._has_images(example) and not any(
            isinstance(value, list | tuple) and len(value) == len(example.input_ids)
            for value in example.features.values()
        )

    def _has_images(self, example: Example) -> bool:
        return bool(self.never_trained) and not self.never_trained.isdisjoint(example.input_ids)


def _cut(example: Example, extra: int) -> Example | None:
    """Without `extra` tokens after the first one; None if a trained token is among them."""
    if any(label != MASKED for label in example.labels[: extra + 1]):
        return None
    ids, labels = ([column[0], *column[extra + 1 :]] for column in (example.input_ids, example.labels))
    return attrs.evolve(example, input_ids=ids, labels=labels)


def _raw(row: Row) -> str:
    return json.dumps(row.values, ensure_ascii=False, default=repr)[:SHOWN_RAW]
