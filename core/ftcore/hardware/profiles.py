"""Hardware profiles: those that ship with ftcore and those in a person's own folders."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import ProfileError

VARIABLE = "FTCORE_HARDWARE_PROFILES"


def shipped(folder: str) -> Path:
    """A folder that ships with ftcore: inside the package, or in the repository of an editable install."""
    package = Path(__file__).parents[1]
    packaged = package / folder
    return packaged if packaged.is_dir() else package.parent.parent / folder


def own_folders() -> list[Path]:
    """Where a person keeps hardware profiles; names in the first folder win.

    `FTCORE_HARDWARE_PROFILES` (several folders as in PATH), then `ftcore/hardware_profiles` in the user's
    configuration folder (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    named = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - no error without a home
    return [*named, Path(home) / "ftcore" / "hardware_profiles"]


def hardware_profiles() -> dict[str, Path]:
    """Every hardware profile by name; a person's own wins over a shipped one of its name."""
    folders = [shipped("hardware_profiles"), *reversed(own_folders())]
    found = {path.stem: path for folder in folders for path in _profiles_in(folder)}
    return dict(sorted(found.items()))


def is_shipped(path: Path) -> bool:
    """Whether a hardware profile came with ftcore."""
    return path.parent == shipped("hardware_profiles")


@attrs.frozen(kw_only=True)
class Described:
    """What a hardware profile says about the machine that it is for. `memory` is in GiB."""

    name: str
    path: Path
    summary: str
    card: str = ""
    memory: float | None = None


def described(name: str, path: Path) -> Described:
    """Read one. Raises `ProfileError` for a file that cannot be read."""
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ProfileError(f"hardware profile {path} cannot be read: {reason}; mend it or remove it") from None
    hardware = tables.get("hardware", {})
    card, memory = _of_type(hardware, "card", str), _of_type(hardware, "memory", float, int)
    return Described(name=name, path=path, summary=_summary(text), card=card or "", memory=memory)


def _of_type(table: Any, key: str, *types: type[Any]) -> Any:
    """What is of another type is told when the profile is used."""
    value = table.get(key) if isinstance(table, dict) else None
    return value if type(value) in types else None


def _summary(text: str) -> str:
    """The comment that opens the file."""
    first = text.lstrip().partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _profiles_in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.toml"))
    except OSError:  # a folder that may not be read
        return []
