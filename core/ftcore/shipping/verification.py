"""What was found of an artifact: in words, and as `verification.json` beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.files import content_digest, content_files, write_json
from ftcore.manifest import artifact_as_json, now, versions
from ftcore.values import Artifact, Proof, Verdict

FILE = "verification.json"
STATEMENTS: Mapping[Verdict, str] = {
    Verdict.PROVED: "proved: answers like the model that was trained",
    Verdict.FAILED: "failed: do not ship",
    Verdict.NOT_PROVED: "not proved",
}
BESIDE = (FILE, "README.md")
"""What is written into an artifact's folder after its proof."""
PLACE = re.compile(r"(?<![\w.:/~])(?:~/|/)(?:[^\s/'\"`|,;:()<>]+/)*([^\s/'\"`|,;:()<>]+)/?")
"""A path of this machine, and the name at its end."""


def write_verification(artifact: Artifact) -> None:
    """Put the proof beside the artifact, among those of its neighbours, with what tells it from any other file.

    No path of this machine is in it: the artifact may be given away with it.
    """
    path = folder_of(artifact) / FILE
    others = [entry for entry in _entries(path) if _stays(entry, artifact)]
    known = _without_places(artifact)
    entry = {
        **artifact_as_json(known),
        "path": artifact.path.name,
        "bytes": sum(file.stat().st_size for file in content_files(artifact.path, BESIDE)),
        "sha256": content_digest(artifact.path, without=BESIDE),
        "statement": statement(known.proof),
        "at": now(),
        "versions": versions(),  # ftcore's, and those of the runtimes
    }
    write_json(path, {"artifacts": sorted([*others, entry], key=lambda each: str(each["path"]))})


def has_changed(artifact: Artifact) -> bool:
    """Whether the artifact is another than the one whose proof lies beside it, or none lies there."""
    entries = _entries(folder_of(artifact) / FILE)
    proved = next((entry.get("sha256") for entry in entries if entry.get("path") == artifact.path.name), None)
    return proved != content_digest(artifact.path, without=BESIDE)


def statement(proof: Proof) -> str:
    """What a proof found, in one sentence: the note says within what, or why not."""
    return f"{STATEMENTS[proof.verdict]}{f' ({proof.note})' if proof.note else ''}"


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
    note = artifact.proof.note
    return f"{artifact.kind} {artifact.path.name}: {verdict}{f' ({note})' if note else ''}"


def failed_proof(artifact: Artifact) -> str:
    """One sentence: which artifact, and by how much."""
    figures, note = figures_of(artifact.proof), artifact.proof.note
    return (
        f"export {artifact.kind}: {artifact.path} does not answer like the model that was trained "
        f"({figures}{'; ' if figures and note else ''}{note}); do not ship it"
    )


def _without_places(artifact: Artifact) -> Artifact:
    """Without the command that runs it here, and with names in place of paths."""
    details = {name: _named(artifact, text) for name, text in artifact.details.items() if name != "run"}
    proof = attrs.evolve(artifact.proof, note=_named(artifact, artifact.proof.note))
    return attrs.evolve(artifact, details=details, proof=proof)


def _named(artifact: Artifact, text: str) -> str:
    text = text.replace(str(artifact.path), artifact.path.name)
    for folder in artifact.path.absolute().parents[:3]:  # up to the run's, which may have spaces in its name
        text = text.replace(f"{folder}/", "")
    return PLACE.sub(r"\1", text)


def _stays(entry: Mapping[str, Any], artifact: Artifact) -> bool:
    name = entry.get("path")
    return name != artifact.path.name and isinstance(name, str) and (folder_of(artifact) / name).exists()


def _entries(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text("utf-8"))["artifacts"]
        return [entry for entry in found if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
