"""Ships the tuned model as GGUF files for llama.cpp, Ollama, LM Studio and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Problem, Proof, Run, hookimpl, option
from ftcore_plugins.common.requirements import missing

Quantization = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]

KIND = "gguf"
BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07, "q6_k": 0.83, "q5_k_m": 0.72, "q4_k_m": 0.62}
"""Of one weight, with what the mixture gives more bits."""

ON_THE_WAY = 4.0
"""Bytes of a weight in the merged folder and in the f16 that is quantized from."""


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.gguf]`."""

    quantization: Quantization | tuple[Quantization, ...] = option(
        "q4_k_m", help="type of the weights, or a list of several; q4_k_m is the usual one, q8_0 all but lossless"
    )
    imatrix: int = option(
        0, at_least=0, help="training rows whose activations say which weights matter most in quantizing; 0 for none"
    )
    lora: bool = option(False, help="write the adapter alone as well, to be loaded beside the base model")
    modelfile: bool = option(True, help="write a Modelfile for Ollama beside each file")
    system: str = option("", help="system prompt of the Modelfile")
    context: int = option(
        0, at_least=0, help="tokens of context in the Modelfile; 0 takes the model's, but at most 8192"
    )
    converter: Path | None = option(
        None, help="folder of a llama.cpp checkout, whose converter writes what ftcore does not know itself"
    )

    @property
    def quantizations(self) -> tuple[str, ...]:
        """Each one once, in the order given."""
        given = (self.quantization,) if isinstance(self.quantization, str) else self.quantization
        return tuple(dict.fromkeys(given))


class Gguf:
    """Writes one f16 GGUF of the merged model, quantizes it, and proves every file in llama.cpp itself."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self._proved: dict[str, Proof] = {}

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The libraries must be there, and each option must be one that the model and a Modelfile can take."""
        from ftcore_plugins.gguf.checks import problems

        return [*missing("gguf", "gguf", "gguf", "xllamacpp", "safetensors", "numpy"), *problems(run, self.config)]

    @hookimpl
    def export_size(self, parameters: int) -> int:
        """All files, and what they are made from."""
        return int(parameters * (ON_THE_WAY + sum(BYTES[name] for name in self.config.quantizations)))

    @hookimpl
    def export(self, run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path) -> Iterator[Artifact]:
        """Write `exports/gguf`: a file for each quantization, the mmproj of a model that sees, and Modelfiles.

        Raises `RunError` where the architecture, the weights or the place is none that this can be done with.
        """
        from ftcore_plugins.gguf.exporting import export

        return export(self.config, run=run, loaded=loaded, data=data, saved=saved, exports=exports)

    @hookimpl
    def verify(self, run: Run, artifact: Artifact, reference: Path) -> Proof | None:
        """Load the file in llama.cpp, in a process of its own, and compare it with the reference.

        An adapter alone is asked beside the base model, which is written for it where its export has ended.
        """
        from ftcore_plugins.gguf.proving import is_gguf, prove

        return prove(run, artifact, reference, self._proved) if is_gguf(artifact) else None
