"""What the README of a data set says of its files: named configurations, and the files of their splits.

https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.formats import format_of
from ftcore_plugins.files.names import TRAIN, canonical, data_names, split_of

__all__ = ["CARD", "Configuration", "chosen", "configurations"]

CARD = "README.md"
DEFAULT = "default"
SHOWN = 5


@attrs.frozen(kw_only=True)
class Configuration:
    """A part of a data set. `patterns` are those of each split's files below `folder`; without them, names tell."""

    name: str
    folder: str = ""
    patterns: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    default: bool = False

    def splits(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the data set's files that are this part's, with their splits. Raises `DataFault` for twins."""
        if not self.patterns:
            below = {name.removeprefix(f"{self.folder}/"): name for name in names if _is_below(name, self.folder)}
            return {below[name]: split_of(name) for name in data_names(below)}
        found: dict[str, str] = {}
        rows = sorted(name for name in names if format_of(name))
        for split, patterns in self._declared():
            for name in (name for name in rows if any(pattern.fullmatch(name) for pattern in patterns)):
                if found.setdefault(name, split) != split:
                    raise _fault(f"{name} is in the splits {found[name]} and {split}; name the file in data.id")
        return found

    def _declared(self) -> Iterator[tuple[str, list[re.Pattern[str]]]]:
        from fsspec.utils import glob_translate

        for split, patterns in self.patterns.items():
            below = [str(PurePosixPath(self.folder) / pattern) for pattern in patterns]
            # Two splits that mean the same are told apart by their own names.
            twins = sum(canonical(other) == canonical(split) for other in self.patterns) > 1
            yield split if twins else canonical(split), [re.compile(glob_translate(pattern)) for pattern in below]


def configurations(readme: Path) -> list[Configuration]:
    """The configurations that a README declares; none for most. Raises `DataFault` where it cannot be understood."""
    from huggingface_hub.repocard import metadata_load

    try:
        about = metadata_load(readme) or {}
    except Exception as error:  # of the YAML, in classes of another library
        raise _fault(f"cannot be read: {str(error).strip().partition(chr(10))[0]}") from error
    declared = about.get("configs") or []
    if not isinstance(declared, list) or not all(isinstance(one, Mapping) for one in declared):
        raise _fault("has configs that are no list of objects")
    return [_configuration(one) for one in declared]


def chosen(declared: Sequence[Configuration], name: str, identifier: str) -> Configuration | None:
    """The one of this name; without a name the default one. None when there is none of the name, or none at all.

    Raises `DataFault` when there are several, and nothing says which.
    """
    if name or not declared:
        return next((one for one in declared if one.name == name), None)
    default = [one for one in declared if one.default] or [one for one in declared if one.name == DEFAULT]
    if default or len(declared) == 1:
        return (default or declared)[0]
    names = ", ".join(one.name for one in declared[:SHOWN]) + (", ..." if len(declared) > SHOWN else "")
    raise DataFault(
        f"{identifier} has several configurations ({names}); name one, such as {identifier}/{declared[0].name}",
        key="data.id",
    )


def _configuration(about: Mapping[str, Any]) -> Configuration:
    name = str(about.get("config_name") or DEFAULT)
    folder = about.get("data_dir") or ""
    if not isinstance(folder, str):
        raise _fault(f"has a data_dir of {name} that is no text")
    return Configuration(
        name=name,
        folder=folder.strip("/"),
        patterns=_patterns(name, about.get("data_files") or {}),
        default=about.get("default") is True,
    )


def _patterns(name: str, files: Any) -> dict[str, list[str]]:
    """`data_files` in any of its forms: a text, a list of texts, splits with their paths."""
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    found: dict[str, list[str]] = {}
    for entry in files if isinstance(files, list) else [files]:
        one = entry if isinstance(entry, Mapping) else {"split": TRAIN, "path": entry}
        split, paths = one.get("split", TRAIN), one.get("path")
        paths = paths if isinstance(paths, list) else [paths]
        if not isinstance(split, str) or not all(isinstance(path, str) and path for path in paths):
            raise _fault(f"has data_files of {name} that are not understood; name a file or folder in data.id")
        found.setdefault(split, []).extend(map(_within, paths))
    return found


def _within(path: str) -> str:
    if "://" in path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise _fault(f"names {path!r}, which is no file of the data set; name a file or folder in data.id")
    return path.removeprefix("./")


def _is_below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _fault(message: str) -> DataFault:
    return DataFault(f"the data set's {CARD} {message}", key="data.id")
