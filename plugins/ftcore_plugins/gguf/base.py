"""Where the untouched base model lies. Imports transformers."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import cached_file

from ftcore.api import Loaded
from ftcore_plugins.common.hub import base_place, hub_errors


def base_folder(loaded: Loaded, *, trusted: bool) -> Path:
    """Its folder, or that of its revision in the hub's cache. Raises `RunError` when it is not there any more."""
    place = {name: value for name, value in base_place(loaded, trusted=trusted).items() if name != "trust_remote_code"}
    with hub_errors(loaded.base, loaded.revision):
        return Path(cached_file(loaded.base, "config.json", **place)).parent
