"""Ships the tuned model as one folder that plain transformers loads, without PEFT or ftcore."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Problem, Proof, Run, hookimpl, option
from ftcore_plugins.common.requirements import missing

SIZE = re.compile(r"0*[1-9][0-9]*(KB|MB|GB)")
BYTES = {"float32": 4, "auto": 2}
"""Bytes a weight; nearly all models are saved in 16 bits, so that auto means that."""


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.merge]`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="type that the weights are written in; auto is the type that the base model is saved in"
    )
    max_shard_size: str = option("4GB", help="size at which the weights are split into several files, such as 500MB")


class Merge:
    """Merges the adapter into the base model and writes what a stranger needs to load it."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """PEFT must be there, and the size must be one."""
        problems = missing("merge", "train", "torch", "transformers", "peft")
        size = self.config.max_shard_size
        if not SIZE.fullmatch(size):
            message = f"{size!r} is no size; write a whole number over 0 and KB, MB or GB"
            problems.append(Problem(key="plugin.merge.max_shard_size", message=message))
        return problems

    @hookimpl
    def export_size(self, parameters: int) -> int:
        """A whole model."""
        return parameters * BYTES.get(self.config.dtype, BYTES["auto"])

    @hookimpl
    def export(self, run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path) -> Artifact:
        """Write `exports/merged`. Raises `RunError` where the adapter, the base or the disk does not allow it."""
        from ftcore_plugins.common.hub import model_class
        from ftcore_plugins.common.merging import Settings, write_merged

        settings = Settings(dtype=self.config.dtype, max_shard_size=self.config.max_shard_size)
        merged = write_merged(exports / "merged", run, loaded, data, saved, settings=settings)
        kind = model_class(loaded.model.config).__name__
        place = repr(str(merged.folder))
        command = f'from transformers import {kind}; model = {kind}.from_pretrained({place}, dtype="auto")'
        return Artifact(kind="merged", path=merged.folder, details={**merged.details, "run": command})

    @hookimpl
    def verify(self, run: Run, artifact: Artifact, reference: Path) -> Proof | None:
        """Load the folder in plain transformers, in a process of its own, and compare it with the reference."""
        from ftcore_plugins.merge.proving import is_merged, prove

        return prove(run, artifact, reference) if is_merged(artifact) else None
