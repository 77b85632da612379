"""A tuned tiny model with its reference, and what the tests do to the GGUFs that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Proof, Run
from ftcore_plugins.common.merging import Merged, merged_folder
from ftcore_plugins.common.proof.comparison import Findings
from ftcore_plugins.common.proof.process import examine
from ftcore_plugins.gguf import Gguf, Options, proving
from ftcore_plugins.gguf.runtime import LlamaCpp
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.reference import Options as ReferenceOptions
from ftcore_plugins.reference import Reference
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from tiny_kit import FakeControl, Tiny

TRAIN = {"max_steps": 12, "batch_size": 8, "learning_rate": 5e-3}


@attrs.frozen
class Tuned:
    """A model in memory, trained for a few steps and saved, and how it answers."""

    run: Run
    loaded: Loaded
    data: PreparedData
    saved: Path
    exports: Path

    @property
    def reference(self) -> Path:
        return self.exports / "reference"

    def write_reference(self) -> None:
        self.reference.mkdir(parents=True)
        Reference(ReferenceOptions()).write_reference(self.run, self.loaded, self.data, self.reference)

    def export(self, *quantizations: str, exports: Path | None = None, **options: Any) -> list[Artifact]:
        plugin = Gguf(Options(quantization=quantizations or ("f16",), **options))
        return list(plugin.export(self.run, self.loaded, self.data, self.saved, exports or self.exports))

    def merged(self) -> Merged:
        return merged_folder(self.run, self.loaded, self.data, self.saved, self.exports)

    def prove(self, artifact: Artifact, *, apart: bool = False) -> Proof:
        """In this process, which is faster, or `apart` in one of its own, as in a run."""
        with nullcontext() if apart else mock.patch.object(proving, "ask", ask_here):
            proof = Gguf(Options()).verify(self.run, artifact, self.reference)
        assert proof is not None
        return proof

    def prove_file(self, path: Path) -> Proof:
        """As a file that another tool has made."""
        return self.prove(Artifact(kind="", path=path))


def ask_here(_: str, artifact: Path, reference: Path, options: Mapping[str, Any]) -> Findings:
    return examine(LlamaCpp, artifact, reference, options)


def tune(tiny: Tiny, folder: Path, *, lora: LoraOptions | None = None, seed: int = 42, base: Any = None) -> Tuned:
    """Train on the tiny rows; `base` changes the model before, in place."""
    run = tiny.run(folder, train=TRAIN, run={"seed": seed})
    loaded = tiny.load(run)
    if base:
        base(loaded.model)
        loaded.model.save_pretrained(folder / "base")
    loaded = Lora(lora or LoraOptions()).adapt(run, loaded)
    trainer = Sft(SftOptions()).make_trainer(run, loaded, tiny.data, {})
    trainer.train(FakeControl(folder / "checkpoints"), None)
    trainer.save(folder / "saved")
    tuned = Tuned(run, loaded, tiny.data, folder / "saved", folder / "exports")
    tuned.write_reference()
    return tuned
