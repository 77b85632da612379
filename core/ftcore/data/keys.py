"""By whom and what a hook is answered: the part of a cache key that is code."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ftcore.data.cache import key_for
from ftcore.options import as_table
from ftcore.plugins import Active, Plugins


def made_by(plugins: Plugins, hook: str) -> tuple[str, str]:
    """Who answers a hook, for errors, and a digest of the code that does: core's own, and each plugin's.

    Source code is a part of it, since an author edits it all day under one version; so are the plugin's options and
    the versions of the libraries that its distribution asks for: a tokenizer's, say.
    """
    active = plugins.active(hook)
    names = ", ".join(str(plugin.source) for plugin in active)
    code = key_for([platform.python_version(), _source_digest("ftcore"), [_identity(plugin) for plugin in active]])
    return f"plugin {names}" if names else hook, code


def _identity(plugin: Active) -> list[Any]:
    source = plugin.source
    code = _source_digest(plugin.cls.__module__.partition(".")[0])
    libraries = sorted(set(_libraries(source.distribution)))
    return [source.name, source.distribution, source.version, as_table(plugin.config), code, libraries]


def _libraries(distribution: str) -> Iterator[str]:
    try:
        wanted = requires(distribution) or []
    except (PackageNotFoundError, ValueError):
        return
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)
        try:
            yield f"{name[0]} {version(name[0])}" if name else ""
        except PackageNotFoundError:  # of an extra that is not installed
            continue


def _source_digest(package: str) -> str:
    module = sys.modules[package]
    roots = [Path(root) for root in getattr(module, "__path__", [])]
    alone = [Path(module.__file__)] if not roots and module.__file__ else []
    digest = hashlib.sha256()
    for file in [*alone, *(file for root in roots for file in sorted(root.rglob("*.py")))]:
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
