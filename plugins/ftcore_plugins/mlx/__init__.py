"""Ships the tuned model for MLX, Apple's array library: through mlx-lm, or mlx-vlm for a model that reads images.

MLX works in processes of its own, without torch; they run on Apple silicon, and on Linux without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Problem, Proof, Run, hookimpl, option
from ftcore_plugins.mlx.checks import problems
from ftcore_plugins.mlx.formats import FORMATS, bytes_written
from ftcore_plugins.mlx.recognition import is_mlx

KIND = "mlx"

Quantization = Literal["bf16", "fp16", "8bit", "6bit", "4bit"]


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.mlx]`."""

    quantization: tuple[Quantization, ...] = option(
        ("4bit",), help="what is written, a folder each: bf16 or fp16 whole weights, or so many bits a weight"
    )
    group_size: Literal[32, 64, 128] = option(
        64, help="quantized only: weights that share a scale; fewer are more exact, and larger"
    )


class Mlx:
    """Writes the merged model as folders that mlx-lm, mlx-vlm and LM Studio load, whole or quantized."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self._sources: dict[Path, Path] = {}
        self._proofs: dict[Path, Proof] = {}

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """MLX must be there and know the machine and the model, and the groups must fit the model's widths."""
        return problems(run, self.config.quantization, self.config.group_size)

    @hookimpl
    def export_size(self, parameters: int) -> int:
        """The folders, and the merged model that they are made from."""
        return bytes_written(parameters, self.config.quantization, self.config.group_size)

    @hookimpl
    def export(self, run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path) -> Sequence[Artifact]:
        """Write `exports/mlx/NAME-QUANTIZATION` for each of them. Raises `RunError` when MLX cannot hold the model."""
        from ftcore_plugins.common.merging import merged_folder
        from ftcore_plugins.mlx.writer import Order, write

        merged = merged_folder(run, loaded, data, saved, exports)
        wanted = (FORMATS[name] for name in dict.fromkeys(self.config.quantization))
        formats = sorted(wanted, key=lambda format: format.bits is not None)  # what the others are made from first
        order = Order(run=run, merged=merged.folder, formats=formats, group_size=self.config.group_size)
        written = list(write(order, exports))
        self._sources = {each.path: each.source for each in written if each.source}
        self._proofs = {}
        details = {name: value for name, value in merged.details.items() if name != "dtype"}
        return [Artifact(kind=KIND, path=each.path, details={**details, **each.details}) for each in written]

    @hookimpl
    def verify(self, artifact: Artifact, reference: Path) -> Proof | None:
        """Compare it in MLX itself; of a model that reads images the text alone, which is told."""
        if artifact.kind != KIND and (artifact.kind or not is_mlx(artifact.path)):
            return None
        from ftcore_plugins.mlx.proof import prove, with_source

        proof = self._proofs[artifact.path] = prove(artifact.path, reference)
        source = self._sources.get(artifact.path)
        if source is None or not source.is_dir():
            return proof
        if source not in self._proofs:  # several are made from one
            self._proofs[source] = prove(source, reference)
        return with_source(proof, self._proofs[source], artifact.path)
