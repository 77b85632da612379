"""Where the untouched base model lies. Imports transformers."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import cached_file

from ftcore.api import RunError
from ftcore_plugins.common.hub import hub_errors


def base_folder(base: str, revision: str) -> Path:
    """Its folder, or that of its revision in the hub's cache. Raises `RunError` when it is not there any more."""
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise RunError(f"{base} is not there any more; put the base model back")
    place = {"local_files_only": True} if Path(base).is_dir() else {"revision": revision or None}
    with hub_errors(base, revision):
        return Path(cached_file(base, "config.json", **place)).parent
