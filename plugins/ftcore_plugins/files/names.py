"""Which files of a folder hold rows, and which split each belongs to: by their names, as on the Hugging Face hub.

https://huggingface.co/docs/hub/datasets-file-names-and-splits
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.formats import format_of

__all__ = ["TRAIN", "canonical", "data_names", "in_split", "pick", "require_all_shards", "split_of", "splits_of"]

TRAIN = "train"
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files that `datasets` writes beside the rows."""

SHARD = re.compile(r"(?P<split>\w[\w.]*?)-\d{5}-of-(?P<count>\d{5})(-[0-9a-f]+)?\.\w+(\.\w+)?")


def data_names(names: Iterable[str]) -> list[str]:
    """Those of a folder's files (paths below it, with `/`) that hold rows, in the order of their names.

    Files in subfolders count only when none lies in the folder itself. A `.json` file beside files of another
    format describes them, and is left out.
    """
    found = sorted(name for name in names if _holds_rows(PurePosixPath(name)))
    found = [name for name in found if "/" not in name] or found
    return [name for name in found if _kind(name) != "json"] or found


def _holds_rows(path: PurePosixPath) -> bool:
    # Hidden files are left by editors and by macOS, which puts a ._x.jsonl beside x.jsonl on foreign disks.
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in DESCRIPTIONS and format_of(path.name) is not None


def _kind(name: str) -> str:
    form = format_of(name)
    return form.kind if form else ""


def split_of(name: str) -> str:
    """The split that a path below a data folder names, or an empty text."""
    path = PurePosixPath(name)
    shard = SHARD.fullmatch(path.name)
    if shard:
        return canonical(shard["split"])
    for part in reversed(path.parts):
        for word in re.split(r"[-_. 0-9]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def canonical(split: str) -> str:
    """`val` and `dev` mean `validation`, and so on."""
    return SPLITS.get(split.lower(), split)


def splits_of(names: Mapping[str, str]) -> list[str]:
    """The splits that files belong to, training first. `names` maps a file to its split."""
    found = {split for split in names.values() if split}
    return sorted(found, key=lambda split: (split != TRAIN, split))


def pick(names: Mapping[str, str], wanted: str, shown: str, key: str = "data.split") -> list[str]:
    """The files of the split `wanted`; without it, all files, or those of `train` where there are several splits.

    Raises `DataFault` with the splits that there are.
    """
    there = splits_of(names)
    if not wanted and len(there) <= 1 and (not there or there == [TRAIN] or "" not in names.values()):
        return list(names)
    if not wanted and "" in names.values():
        stray = next(name for name, split in names.items() if not split)
        raise DataFault(
            f"{shown} has the splits {', '.join(there)}, and {stray} is in none of them; name a split", key=key
        )
    found = in_split(names, wanted or TRAIN)
    if not found:
        has = f"it has {', '.join(there)}" if there else "none of its files names one"
        raise DataFault(f"{shown} has no split {wanted or TRAIN!r}; {has}", key=key)
    return found


def in_split(names: Mapping[str, str], wanted: str) -> list[str]:
    """The files of a split by its own name, or else by one that means the same."""
    own = [name for name, split in names.items() if split == wanted]
    return own or [name for name, split in names.items() if canonical(split) == canonical(wanted)]


def require_all_shards(names: Sequence[str], shown: str) -> None:
    """Raise `DataFault` when one of `train-00000-of-00002.parquet` and `train-00001-of-00002.parquet` is not there."""
    shards = Counter(
        (str(PurePosixPath(name).parent / match["split"]), int(match["count"]))
        for name in names
        if (match := SHARD.fullmatch(PurePosixPath(name).name))
    )
    for (split, count), there in shards.items():
        if there < count:
            raise DataFault(f"{shown} has {there} of the {count} files of {split}; get the others, too")
