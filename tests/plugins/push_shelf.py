"""A run with an adapter and artifacts to push, and the client of this process set to a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from ftcore.api import Artifact, Proof, Run, Verdict
from ftcore.shipping.verification import write_verification
from ftcore.testing import make_config, make_run
from ftcore_plugins.hub import Options
from ftcore_plugins.hub.patience import Patience
from push_kit import TOKEN, PushHub


def use_hub(server: PushHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set the client of this process to a hub on this machine, without repositories."""
    from huggingface_hub import constants

    server.reset()
    for name, value in (("ENDPOINT", server.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # The client's own waiting, between its own tries.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))


@attrs.define(kw_only=True)
class Shelf:
    """A run with an adapter and artifacts on the disk, and what was waited and said while it was pushed."""

    run: Run
    saved: Path
    artifacts: Sequence[Artifact]
    waited: list[float] = attrs.field(factory=list)
    silence: float = 300.0

    def push(self, **options: Any) -> str:
        from ftcore_plugins.hub.push import push

        patience = Patience(sleep=self.waited.append, tries=4, silence=self.silence)
        config = make_config(Options, options)
        return push(config, self.run, self.artifacts, self.saved, patience)


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def fill_shelf(tmp_path: Path) -> Shelf:
    """Everything that can be pushed, in small."""
    run = attrs.evolve(make_run(tmp_path / "run"), name="my run")
    base = tmp_path / "base"
    config = {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 4}
    adapter = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": b"adapter"}
    saved = write(run.folder / "adapter", **adapter)
    exports = run.folder / "exports"
    files = {"config.json": b"{}", "model.safetensors": b"merged" * 5, "README.md": b"old"}
    write(exports / "merged", **files, **{".hidden": b"no"})
    write(exports / "gguf", **{"my-q8_0.gguf": b"GGUF", "Modelfile": b"FROM ./my-q8_0.gguf", "other.gguf": b"old"})
    alone = exports / "gguf/my-adapter-f16.gguf"
    alone.write_bytes(b"GGLA")
    write(exports / "mlx-4bit", **{"config.json": b"{4}", "model.safetensors": b"mlx"})
    proof = Proof(verdict=Verdict.PROVED, figures={"kl_mean": 1e-6}, note=f"seen in {run.folder}/exports")
    places = {"merged": "merged", "gguf": "gguf/my-q8_0.gguf", "mlx": "mlx-4bit"}
    artifacts = [
        Artifact(kind=kind, path=exports / place, proof=proof, details={"run": f"run {exports / place}"})
        for kind, place in places.items()
    ]
    artifacts.append(
        Artifact(kind="gguf", path=alone, proof=proof, details={"part": "adapter", "run": f"take {alone}"})
    )
    for artifact in artifacts:
        write_verification(artifact)
    return Shelf(run=run, saved=saved, artifacts=artifacts)
