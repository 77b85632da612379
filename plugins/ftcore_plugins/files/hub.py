"""Data sets of the Hugging Face hub: the files of the wanted splits, downloaded into the hub's own cache."""

from __future__ import annotations

import errno
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from ftcore.api import DataTable
from ftcore_plugins.files.card import CARD, chosen, configurations
from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.formats import KNOWN
from ftcore_plugins.files.names import data_names, pick, split_of
from ftcore_plugins.files.pictures import Pictures, pictures_among
from ftcore_plugins.files.places import Place

__all__ = ["HUB_KEY", "downloaded", "hub_errors", "id_faults"]

HUB_KEY = "data.id"
SHOWN = 3
ID = re.compile(r"[\w.-]+(/[\w.-]+)?(?P<folder>(/[\w. -]+)*)", re.ASCII)


def id_faults(data: DataTable) -> list[DataFault]:
    """What can be said of `data.id` without the network."""
    if find_spec("huggingface_hub") is None:
        return [_fault("huggingface_hub is not installed; run: pip install 'ftcore[train]'")]
    if not ID.fullmatch(data.id) or ".." in data.id:
        return [_fault(f"{data.id!r} is no name of a data set on the hub; write owner/name, or set data.path")]
    return []


def downloaded(data: DataTable) -> Place:
    """The files that `data.split` and `data.validation_split` ask for. Raises `DataFault` with what to do.

    `data.id` may go on below the name of the data set, to a configuration that its README declares, to a folder or to
    a file in it: `openai/gsm8k/main`.
    """
    repository, inside = _parts(data.id)
    with hub_errors(repository, data.revision):
        cached, names = _listed(repository, data.revision)
        below, splits = _found(data, names, cached)
        picked = _picked(data, splits)
        patterns = [glob.escape(f"{below}/{name}" if below else name) for name in picked]
        folder = cached or _snapshot(repository, data.revision, allow_patterns=patterns)
    return Place(
        shown=data.id,
        folder=folder / below,
        names={name: splits[name] for name in picked},
        # The files of a snapshot are links to where the hub's client keeps the content of all revisions.
        root=folder.parent.parent,
        is_file=inside in names,
        pictures=None if cached else Pictures(repository=repository, folder=folder, names=pictures_among(names)),
    )


def _found(data: DataTable, names: Sequence[str], cached: Path | None) -> tuple[str, dict[str, str]]:
    """A folder of the data set, and the files below it that hold its rows, with their splits."""
    repository, inside = _parts(data.id)
    if inside in names:
        folder, _, name = inside.rpartition("/")
        return folder, {name: ""}
    declared = configurations(_card(repository, data.revision, cached)) if CARD in names else []
    configuration = chosen(declared, inside, data.id)
    if configuration:
        return "", configuration.splits(names)
    below = [_within(name, inside) for name in names if not inside or name.startswith(f"{inside}/")]
    splits = {name: split_of(name) for name in data_names(below)}
    if splits:
        _require_one_subset(data.id, pick(splits, data.split, data.id))
    elif declared:
        parts = ", ".join(one.name for one in declared[:SHOWN])
        raise _fault(f"{data.id} is no folder with rows, nor a configuration of {repository}; it has {parts}")
    return inside, splits


def _card(repository: str, revision: str, cached: Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    if cached:
        return cached / CARD
    return Path(hf_hub_download(repository, CARD, revision=revision or None, repo_type="dataset"))


def _parts(identifier: str) -> tuple[str, str]:
    parts = identifier.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _within(name: str, inside: str) -> str:
    return name.removeprefix(f"{inside}/") if inside else name


def _listed(repository: str, revision: str) -> tuple[Path | None, list[str]]:
    """Every file of the data set; or, when the hub is out of reach, the folder of those that are in its cache."""
    from huggingface_hub import HfApi, errors

    options = {"revision": revision or None, "repo_type": "dataset"}
    try:
        HfApi().repo_info(repository, **options)  # it fails at once, where a list is asked for again and again
        return None, HfApi().list_repo_files(repository, **options)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise
    except Exception:  # what the client raises without a network has changed with its versions
        folder = _snapshot(repository, revision, local_files_only=True, allow_patterns=[])
        return folder, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _snapshot(repository: str, revision: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision or None, repo_type="dataset", **options))


def _picked(data: DataTable, splits: Mapping[str, str]) -> list[str]:
    if not splits:
        raise _fault(f"{data.id} has no data file ({KNOWN}); name another data set, or a folder of it")
    picked = pick(splits, data.split, data.id)
    if data.validation_split:
        picked += pick(splits, data.validation_split, data.id, "data.validation_split")
    return picked


def _require_one_subset(identifier: str, names: Sequence[str]) -> None:
    folders = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
    if len(folders) > 1:
        shown = ", ".join(folders[:SHOWN]) + (", ..." if len(folders) > SHOWN else "")
        raise _fault(
            f"{identifier} has its rows in several folders ({shown}); name one, such as {identifier}/{folders[0]}"
        )


@contextmanager
def hub_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn what goes wrong on the way into a `DataFault` of one sentence."""
    try:
        yield
    except DataFault:
        raise
    except Exception as error:  # httpx, requests and the hub's own, which share no base
        raise _fault(f"{repository} {_sentence(repository, revision, error)}") from error


def _sentence(repository: str, revision: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/datasets/{repository}"
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub is out of reach"
    for kind, sentence in (
        (errors.GatedRepoError, f"is gated; accept its terms at {page} and set HF_TOKEN"),
        (errors.RevisionNotFoundError, f"has no revision {revision!r}; look at data.revision"),
        (errors.RepositoryNotFoundError, "is not on the hub, or private; check the name, or set HF_TOKEN"),
        (errors.LocalEntryNotFoundError, f"is not in the cache and {why}; run: {_command(repository)}"),
    ):
        if isinstance(error, kind):
            return sentence
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot be downloaded: no room in {constants.HF_HUB_CACHE}; set HF_HOME"
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"cannot be downloaded: {reason}; run: {_command(repository)}"


def _command(repository: str) -> str:
    return f"hf download --repo-type dataset {repository}"


def _fault(message: str) -> DataFault:
    return DataFault(message, key=HUB_KEY)
