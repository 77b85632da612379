"""A tiny model with a drawn adapter as MLX folders of every kind, and their proofs, for the tests of the mlx plugin."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Artifact, Proof
from ftcore_plugins.common.proof.comparison import Findings
from ftcore_plugins.mlx import Mlx, Options
from ftcore_plugins.mlx.proof import judged
from merge_kit import Saved, adapted
from proof_kit import edit, write_reference
from tiny_kit import Tiny

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FEW = {"positions": 12, "greedy_tokens": 8}
ALL = ("bf16", "fp16", "8bit", "6bit", "4bit")
WORKER = Path(__file__).parent / "mlx_worker.py"


@attrs.frozen
class Shipped:
    """A tuned model, what it answers, and its folders for MLX by the names of their quantization."""

    tuned: Saved
    reference: Path
    artifacts: dict[str, Artifact]

    def path(self, name: str) -> Path:
        return self.artifacts[name].path

    def copy(self, name: str, target: Path, damage: Callable[[Path], None]) -> Path:
        """A copy of a folder that is damaged."""
        shutil.copytree(self.path(name), target)
        damage(target)
        return target


@attrs.frozen
class Asked:
    """What the runtime found of several folders, and what it had imported by then."""

    proofs: dict[str, Proof]
    findings: dict[str, Findings]
    heavy: Sequence[str]


def tune(tiny: Tiny, folder: Path, **config: Any) -> Saved:
    """A drawn adapter on the tiny model, whose configuration is changed first; nothing is trained."""
    run = tiny.run(folder)
    edit(folder / "base/config.json", **config)
    loaded = tiny.load(run)
    return adapted(run, loaded.model, tiny.tokenizer, tiny.data, Path(loaded.base), target_modules="all-linear")


def export(tuned: Saved, **options: Any) -> list[Artifact]:
    plugin = Mlx(Options(**options))
    return list(plugin.export(tuned.run, tuned.loaded, tuned.data, tuned.saved, tuned.exports))


def ship(tiny: Tiny, folder: Path) -> Shipped:
    """Every kind, of a model with scaled rope."""
    tuned = tune(tiny, folder, rope_parameters=LLAMA3)
    reference = write_reference(tuned.exports / "reference", tuned.run, tuned.loaded, tuned.data, **FEW)
    written = export(tuned, quantization=ALL, group_size=32)
    return Shipped(tuned, reference, {artifact.details["quantization"]: artifact for artifact in written})


def ask_all(reference: Path, folders: Sequence[Path], scratch: Path) -> Asked:
    """The proofs of many folders, by their names, from one process."""
    result = scratch / "found.json"
    command = [sys.executable, "-P", str(WORKER), *map(str, (result, reference, *folders))]
    subprocess.run(command, capture_output=True, check=True, timeout=300)
    document = json.loads(result.read_text("utf-8"))
    findings = {Path(path).name: Findings(**found) for path, found in document["found"].items()}
    proofs = {folder.name: judged(findings[folder.name], folder, reference) for folder in folders}
    return Asked(proofs, findings, document["heavy"])
