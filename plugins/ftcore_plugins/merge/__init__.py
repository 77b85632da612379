"""Ships the tuned model as one folder that plain transformers loads, without PEFT or ftcore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Problem, Run, hookimpl, option
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.common.staging import staged


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.merge]`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="type that the weights are written in; auto is the type that the base model is saved in"
    )
    max_shard_size: str = option("4GB", help="size at which the weights are split into several files, such as 500MB")


class Merge:
    """Merges the adapter into the base model, and proves that the result answers like the tuned model."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """PEFT must be there, and the size must be one."""
        problems = missing("merge", "train", "torch", "transformers", "peft")
        size = self.config.max_shard_size
        if not size[:-2].isdigit() or size[-2:] not in ("KB", "MB", "GB"):
            message = f"{size!r} is no size; write a whole number and KB, MB or GB"
            problems.append(Problem(key="plugin.merge.max_shard_size", message=message))
        return problems

    @hookimpl
    def export(self, run: Run, loaded: Loaded, data: PreparedData, saved: Path) -> Artifact:
        """Write `exports/merged`, load it as a stranger would, and compare it with the model in memory."""
        from ftcore_plugins.merge.proof import prove
        from ftcore_plugins.merge.writer import write

        target = run.folder / "exports" / "merged"
        with staged(target) as folder:
            dtype = write(folder, config=self.config, run=run, loaded=loaded, data=data, saved=saved)
            proof = prove(folder, dtype, run, loaded, data)
        return Artifact(kind="merged", path=target, proof=proof)
