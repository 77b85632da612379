"""What was found of an artifact: in words, and as `verification.json` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.files import write_json
from ftcore.manifest import artifact_as_json, now, versions
from ftcore.values import Artifact, Proof, Verdict

FILE = "verification.json"
STATEMENTS: Mapping[Verdict, str] = {
    Verdict.PROVED: "proved: answers like the model that was trained",
    Verdict.FAILED: "failed: do not ship",
    Verdict.NOT_PROVED: "not proved: nobody has compared it with the model that was trained",
}


def write_verification(artifact: Artifact) -> None:
    """Put the proof beside the artifact, among those of its neighbours."""
    path = folder_of(artifact) / FILE
    others = [entry for entry in _entries(path) if _stays(entry, artifact)]
    entry = {
        **artifact_as_json(artifact),
        "path": artifact.path.name,
        "statement": STATEMENTS[artifact.proof.verdict],
        "at": now(),
        "versions": versions(),  # ftcore's, and those of the runtimes
    }
    write_json(path, {"artifacts": sorted([*others, entry], key=lambda each: str(each["path"]))})


def folder_of(artifact: Artifact) -> Path:
    """The artifact, or the folder that its file lies in."""
    return artifact.path if artifact.path.is_dir() else artifact.path.parent


def figures_of(proof: Proof) -> str:
    """The figures of a proof in a line of their own."""
    return ", ".join(f"{name} {value:.3g}" for name, value in proof.figures.items())


def proof_line(artifact: Artifact) -> str:
    """One artifact with its verdict and figures, for the screen."""
    figures = figures_of(artifact.proof)
    verdict = f"{artifact.proof.verdict}{': ' if figures else ''}{figures}"
    unproved = artifact.proof.verdict is not Verdict.PROVED and artifact.proof.note
    return f"{artifact.kind} {artifact.path.name}: {verdict}{f' ({artifact.proof.note})' if unproved else ''}"


def failed_proof(artifact: Artifact) -> str:
    """One sentence: which artifact, and by how much."""
    figures, note = figures_of(artifact.proof), artifact.proof.note
    return (
        f"export {artifact.kind}: {artifact.path} does not answer like the model that was trained "
        f"({figures}{'; ' if figures and note else ''}{note}); do not ship it"
    )


def _stays(entry: Mapping[str, Any], artifact: Artifact) -> bool:
    name = entry.get("path")
    return name != artifact.path.name and isinstance(name, str) and (folder_of(artifact) / name).exists()


def _entries(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text("utf-8"))["artifacts"]
        return [entry for entry in found if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
