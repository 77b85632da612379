"""Rows to judge a model by: those that the run held out or trained on, another split, or another file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.assembly import build_plugins
from ftcore.data.encode import encode_rows, read_encoded
from ftcore.data.index import Index, index_rows, number_of
from ftcore.data.keys import made_by
from ftcore.data.prepare import Prepared
from ftcore.discovery import discover
from ftcore.errors import ProfileError, RunError
from ftcore.plugins import Plugins, implemented_hooks
from ftcore.reopening import Opened
from ftcore.shipping.installed import with_defaults
from ftcore.values import Drop, Example, Row, RowSource, Run

HELD_OUT = "validation"
TRAINED = "train"


@attrs.frozen(kw_only=True)
class Wanted:
    """Which rows: a `split`, or a `file`; at most `rows` of them, spread over all."""

    split: str = HELD_OUT
    file: Path | None = None
    rows: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ProfileError(f"--rows {self.rows}: write how many rows, at least 1")

    @property
    def name(self) -> str:
        """What a person calls them: the split, or the file's name."""
        return self.file.name if self.file else self.split


@attrs.frozen(kw_only=True)
class Rowset:
    """The rows, formatted. `keys` tell rows of other content apart; `left_out` counts by reason those that dropped."""

    name: str
    examples: Sequence[Example]
    keys: tuple[int, ...]
    left_out: Mapping[str, int] = attrs.field(factory=dict)

    def only(self, keys: Sequence[int]) -> Rowset:
        """Those of these keys, in their order; of twins, the first."""
        first = {key: place for place, key in reversed(list(enumerate(self.keys)))}
        return self.at([first[key] for key in keys])

    def at(self, places: Sequence[int]) -> Rowset:
        """The rows at these places."""
        examples = [self.examples[place] for place in places]
        return attrs.evolve(self, examples=examples, keys=tuple(self.keys[place] for place in places))


def spread(count: int, wanted: int | None) -> list[int]:
    """So many places out of `count`, at equal distances: a file may be sorted, and its beginning like no other part."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [place * count // wanted for place in range(wanted)]


def choose_rows(opened: Opened, prepared: Prepared, wanted: Wanted) -> Rowset:
    """The wanted rows. Raises `RunError` when there are none, and what reading another file or split raises."""
    if wanted.file is not None or wanted.split not in (HELD_OUT, TRAINED):
        found = _others(opened, prepared, wanted)
    elif wanted.split == TRAINED:
        found = _side(TRAINED, prepared.data.train, prepared.rows.train, prepared.data.ledger.trained, wanted.rows)
    else:
        held_out = prepared.data.validation
        if not len(held_out):
            raise RunError(f"{opened.run.folder} holds out no rows; name rows with --data FILE, or pass --split train")
        found = _side(HELD_OUT, held_out, prepared.rows.validation, len(held_out), wanted.rows)
    return found


def _side(name: str, examples: Sequence[Example], raw: Sequence[Row], count: int, wanted: int | None) -> Rowset:
    """Without rows that come again in an epoch, which lie behind all others."""
    places = spread(count, wanted)
    keys = tuple(number_of(raw[place].values) for place in places)
    return Rowset(name=name, examples=[examples[place] for place in places], keys=keys)


def _others(opened: Opened, prepared: Prepared, wanted: Wanted) -> Rowset:
    run, plugins = other_run(opened.run, wanted), opened.plugins
    source = other_source(opened, run, wanted)
    if not any(len(part.rows) for part in source.parts):
        raise RunError(f"{wanted.file or wanted.split} has no rows")
    index = index_rows(run, source, *made_by(plugins, "load_rows"))
    if wanted.file is None and index.fingerprint == prepared.rows.fingerprint:
        raise RunError(f"--split {wanted.split}: those are the rows that the run was made with; pass --split train")
    return _formatted(opened, run, prepared, index, wanted)


def _formatted(opened: Opened, run: Run, prepared: Prepared, index: Index, wanted: Wanted) -> Rowset:
    maker, _ = made_by(opened.plugins, "format_dataset")
    with tempfile.TemporaryDirectory() as scratch:
        encode_rows(run, index, prepared.format, Path(scratch), maker)
        encoded = read_encoded(Path(scratch))
        for broken in encoded.broken:
            raise RunError(f"{broken.origin}: {broken.reason}")
        left_out = _reasons([drop for _, drop in encoded.dropped])
        if not len(encoded.examples):
            raise RunError(
                f"none of the {len(index.places)} rows of {wanted.name} can be judged by ({_said(left_out)})"
            )
        places = spread(len(encoded.examples), wanted.rows)
        examples = [encoded.examples[place] for place in places]
        keys = tuple(index.contents[encoded.numbers[place]] for place in places)
    return Rowset(name=wanted.name, examples=examples, keys=keys, left_out=left_out)


def other_run(run: Run, wanted: Wanted) -> Run:
    """The run with its data table turned to other rows: all of them, none held out, and no broken one."""
    table = attrs.evolve(
        run.profile.data, validation=0.0, validation_path=None, validation_split="", max_rows=None, max_bad_rows=0
    )
    table = attrs.evolve(table, group="")
    if wanted.file is not None:
        table = attrs.evolve(table, path=wanted.file.absolute(), id="", revision="", split="", weights=())
    else:
        table = attrs.evolve(table, split=wanted.split)
    return attrs.evolve(run, profile=attrs.evolve(run.profile, data=table))


def other_source(opened: Opened, run: Run, wanted: Wanted) -> RowSource:
    """The rows of another file or split, by who reads the run's own, if that reads files at all."""
    own = opened.run.profile.data
    if wanted.file is not None and not wanted.file.exists():
        raise ProfileError(f"--data: no such file or folder: {wanted.file}")
    if own.path or own.id:
        return opened.plugins.load_rows(run)
    if wanted.file is None:
        raise ProfileError(
            f"--split {wanted.split}: the run's rows are made, and have no splits; name rows with --data"
        )
    return _file_reader().load_rows(run)


def _file_reader() -> Plugins:
    """The installed fallback that reads rows where no profile says who does."""
    installed = discover()
    found = (with_defaults(installed, name, lambda _: None, fallback=True) for name in installed.fallbacks)
    readers = [plugin for plugin in found if plugin and "load_rows" in implemented_hooks(plugin.cls)]
    if not readers:
        raise ProfileError("--data: no installed plugin reads files")
    return build_plugins(readers[:1], report=lambda _: None)[0]


def _reasons(drops: Sequence[Drop]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for drop in drops:
        counts[drop.reason] = counts.get(drop.reason, 0) + 1
    return counts


def _said(left_out: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
