"""Where rows are: a path of the profile, and the data files that it stands for."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from ftcore_plugins.files.faults import KEY, DataFault
from ftcore_plugins.files.formats import KNOWN, Format, format_of
from ftcore_plugins.files.names import data_names, require_all_shards, split_of
from ftcore_plugins.files.pictures import Pictures

__all__ = ["DataFile", "Place", "files_of", "place_of"]


@attrs.frozen(kw_only=True)
class DataFile:
    """A regular file with content. `name` is how a person knows it among the others."""

    path: Path
    name: str
    format: Format


@attrs.frozen(kw_only=True)
class Place:
    """Data files below `folder`, by their names in it, with the split that each belongs to (or an empty text).

    `shown` is what the profile says. No file that lies outside of `root`, links followed, is read. `pictures` are
    those of a data set on the hub, which its rows may name.
    """

    shown: str
    folder: Path
    names: Mapping[str, str]
    root: Path
    is_file: bool = False
    pictures: Pictures | None = None


def place_of(path: Path, key: str = KEY) -> Place:
    """The data files at `path`, a file or a folder. Raises `DataFault` if there are none.

    A folder is one that `datasets.save_to_disk` wrote, or one with data files, whose names tell the splits.
    """
    try:
        if path.is_dir():
            return _folder(path, key)
        if path.exists():
            # What a person names is read wherever its link leads to.
            return Place(shown=path.name, folder=path.parent, names={path.name: ""}, root=Path("/"), is_file=True)
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}", key=key) from error
    raise DataFault(f"no such file or folder: {path.name} (looked in {path.parent}){_nearest(path)}", key=key)


def files_of(place: Place, names: Sequence[str]) -> list[DataFile]:
    """Those files, each one looked at. Raises `DataFault` unless each is a regular file with content.

    A FIFO or a device is never opened: it would hang.
    """
    require_all_shards(names, place.shown)
    root = place.root.resolve()
    return [_file(place.folder / name, name, root) for name in names]


def _file(path: Path, name: str, root: Path) -> DataFile:
    form = format_of(path.name)
    try:
        if not path.is_file():
            raise DataFault(f"{path} is not a regular file; name one, or a folder of them")
        if form is None:
            raise DataFault(f"{path} is no data file that is known; write {KNOWN}")
        if not path.resolve().is_relative_to(root):
            raise DataFault(f"{path} is a link out of the folder; put the file there, or name it in {KEY}")
        if not path.stat().st_size:
            raise DataFault("the file is empty; write rows into it or remove it", path)
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}") from error
    return DataFile(path=path, name=name, format=form)


def _folder(path: Path, key: str) -> Place:
    names = _saved(path) or {name: split_of(name) for name in _data_names_below(path)}
    if not names:
        raise DataFault(f"{path} holds no data file ({KNOWN}); put one there or name another folder", key=key)
    return Place(shown=str(path), folder=path, names=names, root=path)


def _data_names_below(folder: Path) -> list[str]:
    # A folder of images may lie beside the rows: it is not walked through.
    return data_names(entry.name for entry in folder.iterdir()) or data_names(_below(folder))


def _below(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from ((Path(parent) / name).relative_to(folder).as_posix() for name in names)


def _saved(folder: Path) -> dict[str, str]:
    """The files of a `datasets.Dataset` or `DatasetDict` that was saved to disk; other folders have none."""
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        return {f"{split}/{name}": split for split in splits for name in _arrow_files(folder / split)}
    return dict.fromkeys(_arrow_files(folder), "") if (folder / "state.json").is_file() else {}


def _arrow_files(folder: Path) -> list[str]:
    # The folder may hold more .arrow files: `datasets` keeps the cache of a saved set beside it.
    return _listed(folder / "state.json", "_data_files")


def _listed(path: Path, key: str) -> list[str]:
    try:
        entries = json.loads(path.read_bytes())[key]
        names = [entry["filename"] if isinstance(entry, dict) else entry for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataFault(f"the file does not list the {key} that `save_to_disk` writes; save it anew", path) from error
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise DataFault(f"the {key} are not names of files beside it; save it anew", path)
    return names


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ", which is not there either"
    near = difflib.get_close_matches(path.name, list(_worth_naming(path.parent.iterdir())), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _worth_naming(entries: Iterable[Path]) -> Iterator[str]:
    return (entry.name for entry in entries if entry.is_dir() or format_of(entry.name))
