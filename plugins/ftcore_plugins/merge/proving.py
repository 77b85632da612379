"""Which folders are merged models, and what keeps one from being what was trained. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Artifact, Proof, Run
from ftcore_plugins.common.model_folder import headers, read_config
from ftcore_plugins.common.proof.process import ask
from ftcore_plugins.common.proof.reference import read_reference
from ftcore_plugins.common.proof.verdict import Gate, judge, whole_gate

RUNTIME = "ftcore_plugins.merge.runtime"
NAMES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def is_merged(artifact: Artifact) -> bool:
    """Whether an exporter calls it so, or it looks so: weights beside a configuration that MLX has not written."""
    if artifact.kind:
        return artifact.kind == "merged"
    folder = artifact.path
    config = read_config(folder)
    return config is not None and any(folder.glob("*.safetensors")) and not _is_of_mlx(folder, config)


def prove(run: Run, artifact: Artifact, reference: Path) -> Proof:
    """What plain transformers, in a process of its own, makes of the folder."""
    findings = ask(RUNTIME, artifact.path, reference, {"trust_remote_code": run.profile.model.trust_remote_code})
    dtype = dtype_of(artifact.path)
    return judge(findings, gate(artifact.path, reference), dtype)


def gate(folder: Path, reference: Path) -> Gate:
    """The gate of the type that the weights in the folder have."""
    asked = read_reference(reference)
    return whole_gate(dtype_of(folder), exact=asked.exact, sensitivity=asked.sensitivity)


def dtype_of(folder: Path) -> str:
    """The coarsest type among the weights, as the files say it; bfloat16 also for smaller ones."""
    found = {str(tensor["dtype"]) for header in headers(folder) for name, tensor in header.items() if _is_tensor(name)}
    floats = [name for name in NAMES if name in found]
    return NAMES[floats[-1]] if floats and found <= {*NAMES, "I64", "BOOL"} else "bfloat16"


def _is_tensor(name: str) -> bool:
    return name != "__metadata__"


def _is_of_mlx(folder: Path, config: Mapping[str, Any]) -> bool:
    written: Sequence[Any] = [header.get("__metadata__", {}).get("format") for header in headers(folder)]
    return "quantization" in config or "mlx" in written
