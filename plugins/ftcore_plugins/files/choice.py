"""Which files a profile asks for: those to train on, source by source, and those that are held out."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import attrs

from ftcore.api import DataTable
from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.hub import HUB_KEY, downloaded, id_faults
from ftcore_plugins.files.names import in_split, pick, splits_of
from ftcore_plugins.files.pictures import Pictures
from ftcore_plugins.files.places import DataFile, Place, files_of, place_of

__all__ = ["Choice", "choose", "option_faults"]

SPLIT_KEY = "data.split"
HELD_SPLIT_KEY = "data.validation_split"
HELD_PATH_KEY = "data.validation_path"


@attrs.frozen(kw_only=True)
class Choice:
    """The files of each source with its weight, and the files with held-out rows; images that rows may name."""

    parts: Sequence[tuple[Sequence[DataFile], float]]
    validation: Sequence[DataFile] = ()
    pictures: Pictures | None = None

    @property
    def trained(self) -> list[DataFile]:
        """The files of all sources, in the order of reading."""
        return [file for files, _ in self.parts for file in files]


def option_faults(data: DataTable) -> list[DataFault]:
    """Options that contradict each other, before any file is looked at."""
    paths = _paths(data)
    faults = id_faults(data) if data.id else []
    if not paths and not data.id:
        faults.append(DataFault("no training data; name a file or a folder with the rows, or a data.id"))
    if paths and data.id:
        faults.append(DataFault("both data.path and data.id are set; keep one", key=HUB_KEY))
    if data.revision and not data.id:
        faults.append(DataFault("a revision without data.id; set one or leave it out", key="data.revision"))
    if data.validation_path and data.validation_split:
        faults.append(DataFault("both it and data.validation_split are set; keep one", key=HELD_PATH_KEY))
    return faults + _weight_faults(data.weights, len(paths) or 1)


def choose(data: DataTable) -> Choice:
    """The files, each of them looked at; those of a `data.id` are downloaded. Raises `DataFault`."""
    for fault in option_faults(data):
        raise fault
    places = [downloaded(data)] if data.id else [place_of(path) for path in _paths(data)]
    trained = [files_of(place, _trained(place, places, data)) for place in places]
    validation = _held_out(places, data)
    weights = data.weights or (1.0,) * len(places)
    parts = list(zip(trained, weights, strict=True))
    choice = Choice(parts=parts, validation=validation, pictures=places[0].pictures)
    _require_apart(choice, data)
    return _with_names_of_their_own(choice)


def _paths(data: DataTable) -> tuple[Path, ...]:
    return (data.path,) if isinstance(data.path, Path) else data.path or ()


def _weight_faults(weights: Sequence[float], sources: int) -> list[DataFault]:
    if weights and len(weights) != sources:
        many = f"there are {len(weights)} weights for {sources} of data.path; write one for each, in their order"
        return [DataFault(many, key="data.weights")]
    wrong = [weight for weight in weights if not 0 < weight < float("inf")]
    return [DataFault(f"{weight} is no weight; write one above 0", key="data.weights") for weight in wrong[:1]]


def _trained(place: Place, places: Sequence[Place], data: DataTable) -> list[str]:
    if any(splits_of(other.names) for other in places) and not splits_of(place.names):
        return list(place.names)  # one that knows no splits, among others that do
    return pick(place.names, data.split, place.shown, SPLIT_KEY)


def _held_out(places: Sequence[Place], data: DataTable) -> list[DataFile]:
    if data.validation_path:
        place = place_of(data.validation_path, HELD_PATH_KEY)
        several = len(splits_of(place.names)) > 1
        return files_of(place, pick(place.names, "validation" if several else "", place.shown, HELD_PATH_KEY))
    if not data.validation_split:
        return []
    wanted = data.validation_split
    having = [place for place in places if in_split(place.names, wanted)] or places[:1]
    picked = [(place, pick(place.names, wanted, place.shown, HELD_SPLIT_KEY)) for place in having]
    return [file for place, names in picked for file in files_of(place, names)]


def _require_apart(choice: Choice, data: DataTable) -> None:
    paths = {file.path.resolve() for file in choice.trained}
    twin = next((file for file in choice.validation if file.path.resolve() in paths), None)
    if twin is not None:
        key = HELD_PATH_KEY if data.validation_path else HELD_SPLIT_KEY
        raise DataFault(f"{twin.path} is trained on, too; name other rows", key=key)


def _with_names_of_their_own(choice: Choice) -> Choice:
    """Files of one name, from several places, are called by as much of their paths as tells them apart."""
    paths: dict[str, set[Path]] = {}
    for file in (*choice.trained, *choice.validation):
        paths.setdefault(file.name, set()).add(file.path)

    def named(files: Sequence[DataFile]) -> list[DataFile]:
        return [attrs.evolve(file, name=_name(file, paths[file.name])) for file in files]

    parts = [(named(files), weight) for files, weight in choice.parts]
    return attrs.evolve(choice, parts=parts, validation=named(choice.validation))


def _name(file: DataFile, twins: Set[Path]) -> str:
    if len(twins) == 1:
        return file.name
    longest = max(len(path.parts) for path in twins)
    enough = next(
        count for count in range(2, longest + 1) if len({path.parts[-count:] for path in twins}) == len(twins)
    )
    return "/".join(file.path.parts[-enough:])
