"""Images of a data set on the hub, which its rows name by their paths: those of the rows at hand are fetched."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Row, RowError

__all__ = ["Pictures", "pictures_among"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".ppm", ".tif", ".tiff")
AT_ONCE = 8


@attrs.frozen(kw_only=True)
class Pictures:
    """The images that there are, by their paths in the data set. `folder` is its snapshot in the hub's cache.

    Nothing else is fetched, whatever rows name: a row's path counts from the folder of its file on.
    """

    repository: str
    folder: Path
    names: frozenset[str]

    def missing(self, parts: Iterable[Sequence[Row]]) -> list[str]:
        """The images that these rows name and that are not here yet."""
        if not self.names:
            return []
        named = {name for rows in parts for row in _sound(rows) for name in self._named(row)}
        return sorted(name for name in named if not (self.folder / name).exists())

    def fetch(self, names: Sequence[str]) -> None:
        """Download these images. Raises what the hub's client raises."""
        from huggingface_hub import hf_hub_download

        def get(name: str) -> None:
            # The snapshot is called as its commit.
            hf_hub_download(self.repository, name, revision=self.folder.name, repo_type="dataset")

        with _without_bars(), ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(get, name) for name in names]:
                done.result()

    def _named(self, row: Row) -> Iterator[str]:
        below = row.folder.relative_to(self.folder).as_posix() if row.folder else ""
        for text in _texts(row.values):
            if text.lower().endswith(SUFFIXES):
                name = posixpath.normpath(posixpath.join(below, text))
                if name in self.names:
                    yield name


def pictures_among(names: Iterable[str]) -> frozenset[str]:
    """The files whose names are those of images."""
    return frozenset(name for name in names if name.lower().endswith(SUFFIXES))


@contextmanager
def _without_bars() -> Iterator[None]:
    """The hub's client draws a bar for each file."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _sound(rows: Sequence[Row]) -> Iterator[Row]:
    for place in range(len(rows)):
        with suppress(RowError):  # whoever reads the rows to train on them says so
            yield rows[place]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
