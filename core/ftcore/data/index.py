"""Read every row once: which ones are broken, and what each one holds, as a number."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.cache import cached, key_for
from ftcore.data.pool import in_order, processes
from ftcore.data.sequences import Joined, Renamed
from ftcore.errors import FtcoreError, Interrupted, PluginError, RowError, RunError
from ftcore.values import Part, Row, RowSource, Run

ROWS_A_TASK = 4096
LOOKED_AT = 100
"""Rows in which a renamed column must occur."""

SHOWN_RAW = 10_000
"""Characters of a broken row that are kept to be shown."""


@attrs.frozen(kw_only=True)
class Broken:
    """A row that was set aside. `place` is its number among all rows."""

    place: int
    origin: str
    reason: str
    raw: str = ""


@attrs.frozen(kw_only=True)
class Index:
    """All rows of a source, and what is known of the sound ones.

    `places` are their numbers among `rows`. `contents` are 64 bits of each one's SHA-256, and `groups` of its
    value in the column `data.group` (its content without one). `fingerprint` is over the content of every sound
    row, `origins` over where each one stands.
    """

    rows: Joined[Row]
    parts: Sequence[Part]
    places: array[int]
    contents: array[int]
    groups: array[int]
    broken: tuple[Broken, ...]
    fingerprint: str
    origins: str

    @property
    def ours(self) -> int:
        """How many of the sound rows are of `parts`: the first ones. The source holds out the others."""
        return bisect_left(self.places, sum(len(part.rows) for part in self.parts))


def _no_numbers() -> array[int]:
    return array("Q")


@attrs.frozen(kw_only=True)
class _Found:
    """What a task found in its range."""

    places: array[int] = attrs.field(factory=_no_numbers)
    contents: array[int] = attrs.field(factory=_no_numbers)
    groups: array[int] = attrs.field(factory=_no_numbers)
    broken: list[Broken] = attrs.field(factory=list)
    origins: bytes = b""


def index_rows(run: Run, source: RowSource, maker: str = "load_rows", code: str = "") -> Index:
    """Read all rows, or what is known of them from an earlier run.

    `maker` is who reads them, to be named in errors, and `code` a digest of the source code that does. Raises
    `RunError` when more than `data.max_bad_rows` are broken, or none is sound.
    """
    data = run.profile.data
    parts = [attrs.evolve(part, rows=_renamed(part.rows, data.columns)) for part in source.parts]
    trained = Joined([part.rows for part in parts])
    rows = Joined([*(part.rows for part in parts), _renamed(source.validation, data.columns)])
    if not len(trained):
        raise RunError("nothing to train on: the data has no rows")
    if data.columns:
        _require_columns(rows, data.columns)
    if source.fingerprint:
        sizes = [len(trained), len(rows)]
        chosen = [data.max_rows, run.profile.run.seed] if data.max_rows else []
        about = [source.fingerprint, code, sizes, dict(data.columns), data.group, chosen, data.max_bad_rows]
        folder = cached(
            run, "rows", key_for(about), lambda folder: _write(folder, _read(run, rows, len(trained), maker))
        )
        found = _from_folder(folder)
    else:
        found = _read(run, rows, len(trained), maker)
    _require_rows(found)
    return Index(
        rows=rows,
        parts=parts,
        places=found.places,
        contents=found.contents,
        groups=found.groups,
        broken=tuple(found.broken),
        fingerprint=hashlib.sha256(found.contents.tobytes()).hexdigest(),
        origins=found.origins.hex(),
    )


def too_many_broken(broken: Broken, number: int, allowed: int) -> RunError:
    """The error for the broken row after the last one that `data.max_bad_rows` allows."""
    limit = f"; this is broken row {number}, over data.max_bad_rows ({allowed})" if allowed else ""
    return RunError(f"{broken.origin}: {broken.reason}{limit}")


def _renamed(rows: Sequence[Row], columns: Mapping[str, str]) -> Sequence[Row]:
    return Renamed(rows, columns) if columns else rows


def _require_columns(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """A misspelt column would be passed over in every row."""
    sought, seen = dict(columns), dict[str, None]()
    for place in range(min(len(rows), LOOKED_AT)):
        with suppress(RowError):
            names = rows[place].values
            seen.update(dict.fromkeys(names))
            sought = {new: old for new, old in sought.items() if new not in names}
    if sought:
        new, old = next(iter(sought.items()))
        raise RunError(f"data.columns: {new} is to be {old!r}, which no row has; there are {', '.join(seen) or 'none'}")


def _read(run: Run, rows: Joined[Row], trained: int, maker: str) -> _Found:
    data = run.profile.data
    places = _wanted(len(rows), trained, data.max_rows, run.profile.run.seed)
    task = _Reader(rows=rows, places=places, group=data.group, maker=maker)
    count = len(places)
    ranges = [(start, min(start + ROWS_A_TASK, count)) for start in range(0, count, ROWS_A_TASK)]
    whole = _Found()
    origins = hashlib.sha256()
    for found in in_order(task, ranges, processes(data.workers, count)):
        _add(whole, found, data.max_bad_rows)
        origins.update(found.origins)
    return attrs.evolve(whole, origins=origins.digest())


def _wanted(rows: int, trained: int, most: int | None, seed: int) -> Sequence[int]:
    """The places to read: all, or `most` of those to train on, and those that the source holds out.

    One row is drawn from each of `most` stretches of equal length: each source, and each part of a sorted file, is
    there in proportion.
    """
    if not most or most >= trained:
        return range(rows)
    draw = random.Random(f"data.max_rows {seed}")  # noqa: S311  # the same for the same seed
    stretches = pairwise(trained * number // most for number in range(most + 1))
    return array("Q", [*(draw.randrange(start, end) for start, end in stretches), *range(trained, rows)])


def _add(whole: _Found, found: _Found, allowed: int) -> None:
    for broken in found.broken:
        whole.broken.append(broken)
        if len(whole.broken) > allowed:
            raise too_many_broken(broken, len(whole.broken), allowed)
    whole.places.extend(found.places)
    whole.contents.extend(found.contents)
    whole.groups.extend(found.groups)


@attrs.frozen(kw_only=True)
class _Reader:
    """The task: read the rows at a range of `places`. Travels to other processes."""

    rows: Joined[Row]
    places: Sequence[int]
    group: str
    maker: str

    def __call__(self, start: int, stop: int) -> _Found:
        found = _Found()
        origins = hashlib.sha256()
        for place in self.places[start:stop]:
            try:
                row = self.rows[place]
                content = number_of(row.values) if isinstance(row, Row) else 0
            except RowError as error:
                raw = error.raw[:SHOWN_RAW]
                found.broken.append(Broken(place=place, origin=error.origin, reason=error.reason, raw=raw))
                continue
            except (FtcoreError, Interrupted):
                raise
            except BaseException as error:  # of the plugin's own sequence
                raise PluginError(f"{self.maker}: row {place}: {type(error).__name__}: {error}") from error
            if not isinstance(row, Row):
                raise PluginError(f"{self.maker}: row {place} is a {type(row).__name__}; every row must be a Row")
            found.places.append(place)
            found.contents.append(content)
            found.groups.append(self._group(row) if self.group else content)
            origins.update(f"{row.origin}\n{row.folder}\n".encode("utf-8", "surrogatepass"))
        return attrs.evolve(found, origins=origins.digest())

    def _group(self, row: Row) -> int:
        if self.group not in row.values:
            names = ", ".join(row.values) or "none"
            raise RunError(f"data.group: {row.origin} has no column {self.group!r}; it has {names}")
        return number_of(row.values[self.group])


_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=repr)  # made once: `dumps` makes one a call


def number_of(value: Any) -> int:
    """64 bits of a SHA-256 over a value as JSON; equal values have equal numbers."""
    return int.from_bytes(hashlib.sha256(_JSON.encode(value).encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _require_rows(found: _Found) -> None:
    if not found.places:
        raise RunError(f"nothing to train on: all {len(found.broken)} rows are broken; mend the data")


_COLUMNS = ("places", "contents", "groups")


def _write(folder: Path, found: _Found) -> None:
    for name in _COLUMNS:
        (folder / name).write_bytes(getattr(found, name).tobytes())
    broken = [attrs.asdict(broken) for broken in found.broken]
    document = {"broken": broken, "origins": found.origins.hex()}
    (folder / "rows.json").write_text(json.dumps(document), encoding="utf-8")


def _from_folder(folder: Path) -> _Found:
    document = json.loads((folder / "rows.json").read_text("utf-8"))
    columns = {name: array("Q", (folder / name).read_bytes()) for name in _COLUMNS}
    broken = [Broken(**values) for values in document["broken"]]
    return _Found(**columns, broken=broken, origins=bytes.fromhex(document["origins"]))
