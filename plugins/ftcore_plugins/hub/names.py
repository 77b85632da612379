"""Names of repositories, as the hub accepts them."""

from __future__ import annotations

import re

__all__ = ["fault_of", "is_branch", "named"]

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
FIELD = re.compile(r"\{([^{}]*)\}")
LONGEST = 96
BRANCH = re.compile(r"(?!.*(\.\.|//|/\.))[\w][\w./-]{,199}(?<![./])", re.ASCII)


def named(repository: str, user: str, run: str) -> str:
    """The name with its fields filled in; what the hub refuses in a run's name becomes a hyphen."""
    return repository.replace("{user}", user).replace("{run}", _cleaned(run))


def fault_of(repository: str, run: str) -> str:
    """What is wrong with the option, or nothing. Without a look at the hub."""
    unknown = [field for field in FIELD.findall(repository) if field not in ("user", "run")]
    if unknown:
        return f"{{{unknown[0]}}} stands for nothing; write {{user}}, {{run}}, or the name itself"
    name = named(repository, "user", run)
    parts = name.split("/")
    ends = any(part[:1] in "-." or part[-1:] in "-." for part in parts if part)
    if not REPOSITORY.fullmatch(name) or ends or "--" in name or ".." in name or name.endswith(".git"):
        return f"{repository!r} is no name of a repository; write owner/name, of letters, digits, '-', '_' and '.'"
    return ""


def is_branch(name: str) -> bool:
    """Whether git and the hub would take a branch of that name."""
    return bool(BRANCH.fullmatch(name)) and not name.endswith(".lock") and not name.startswith("refs/")


def _cleaned(run: str) -> str:
    hyphened = re.sub(r"[^\w.-]+", "-", run, flags=re.ASCII)
    single = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", hyphened)).removesuffix(".git")
    return single[:LONGEST].strip("-.") or "run"
