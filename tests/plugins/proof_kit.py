"""Proofs in the test's own process: a reference of the tuned model, and what plain transformers makes of a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

from ftcore.api import Artifact, Loaded, PreparedData, Proof, Run
from ftcore_plugins.common.proof.process import examine
from ftcore_plugins.common.proof.verdict import judge
from ftcore_plugins.merge import Merge
from ftcore_plugins.merge import Options as MergeOptions
from ftcore_plugins.merge.proving import dtype_of, gate
from ftcore_plugins.merge.runtime import open_folder
from ftcore_plugins.reference import Options, Reference
from tiny_kit import Tiny


def write_reference(folder: Path, run: Run, loaded: Loaded, data: PreparedData | None, **options: Any) -> Path:
    folder.mkdir(parents=True)
    Reference(Options(**options)).write_reference(run, loaded, data, folder)
    return folder


def prove(run: Run, loaded: Loaded, data: PreparedData, artifact: Artifact) -> Proof:
    """What `Merge.verify` says, without a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        return proof_of(artifact.path, write_reference(Path(scratch, "reference"), run, loaded, data))


def merge(run: Run, loaded: Loaded, data: PreparedData, saved: Path, **options: Any) -> Artifact:
    """The merged model below `run.folder / "exports"`, with its proof."""
    artifact = Merge(MergeOptions(**options)).export(run, loaded, data, saved, run.folder / "exports")
    return attrs.evolve(artifact, proof=prove(run, loaded, data, artifact))


def proof_of(folder: Path, reference: Path) -> Proof:
    return judge(examine(open_folder, folder, reference), gate(folder, reference), dtype_of(folder))


@attrs.frozen
class Shipped:
    """A tuned model in memory, its merged folder, and the reference."""

    run: Run
    loaded: Loaded
    merged: Path
    reference: Path

    def broken(self, folder: Path, damage: Callable[[Path], None]) -> Proof:
        """The proof of a copy of the merged folder that was damaged."""
        shutil.copytree(self.merged, folder)
        damage(folder)
        return proof_of(folder, self.reference)


def adapted(model: Any, seed: int) -> Any:
    """The model with an adapter that is drawn, not trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return tuned


def merged_of(tuned: Any, processor: Any, folder: Path) -> Path:
    """As PEFT and transformers write it. It takes the adapter out of `tuned`."""
    whole = tuned.merge_and_unload()
    whole.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ship(tiny: Tiny, folder: Path, **config: Any) -> Shipped:
    """A drawn adapter on the tiny model, whose configuration is changed first."""
    run = tiny.run(folder)
    edit(folder / "base/config.json", **config)
    tuned = attrs.evolve(tiny.load(run), adapter="lora")
    tuned = attrs.evolve(tuned, model=adapted(tuned.model, 1))
    reference = write_reference(folder / "reference", run, tuned, tiny.data)
    merged = merged_of(adapted(tiny.load(run).model, 1), tiny.tokenizer, folder / "merged")
    return Shipped(run, tuned, merged, reference)


def edit(path: Path, **values: Any) -> None:
    """Change entries of a JSON file; None takes one out."""
    changed = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}), "utf-8")
