"""Proves GGUF files: each is asked in llama.cpp, in a process of its own, what the tuned model was asked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from gguf import GGUFReader

from ftcore.api import Artifact, Proof, Run, RunError, Verdict
from ftcore_plugins.common.proof.process import ask
from ftcore_plugins.common.proof.reference import Reference, read_reference
from ftcore_plugins.common.proof.verdict import judge
from ftcore_plugins.gguf import KIND
from ftcore_plugins.gguf.gates import gate_of
from ftcore_plugins.gguf.places import BASE, SUFFIX, VISION, WORK
from ftcore_plugins.gguf.quantization.mixture import FILE_TYPES

RUNTIME = "ftcore_plugins.gguf.runtime"
SAMPLED = 1 << 16
"""Numbers of a matrix that are looked at."""

WIDEST = ("f16", "bf16", "f32")
"""Types of whole weights, the one first that others are quantized from if there are several."""

LEAST_CONTEXT = 256
AROUND_IMAGES = {"gemma3": "\n\n"}
"""What a family's processor writes on both sides of an image, and llama.cpp does not: no fault of the file."""

ALIKE = {"nf4": "q4_k_m", "fp4": "q4_k_m", "int8": "q8_0"}
"""What rounds about as much as the weights that an adapter was trained on: it is now beside those before rounding."""

IMAGE_TOKENS = 2048
"""Most tokens that an image may take."""


def is_gguf(artifact: Artifact) -> bool:
    """Whether an exporter calls it so, or its name does."""
    return artifact.kind == KIND or (not artifact.kind and artifact.path.suffix == SUFFIX)


@attrs.frozen(kw_only=True)
class Facts:
    """What a file says of itself: what it holds (`model`, `mmproj` or `adapter`), and in which type.

    `rounded` says that its whole weights have been bfloat16 before, which no reference in float32 knows of.
    """

    architecture: str
    holds: str
    quantization: str
    rounded: bool


def prove(run: Run, artifact: Artifact, reference: Path, known: dict[str, Proof]) -> Proof:
    """The verdict on one file; on a quantized one also by the whole one that it was made from, if that is there.

    `known` keeps what was found of whole ones: several are quantized from the same.
    """
    asked = read_reference(reference)
    try:
        facts = read_facts(artifact.path)
    except Exception as error:  # whatever a damaged file makes of a library that takes it for a whole one
        note = f"it is no whole GGUF, but cut short or damaged ({str(error).partition(chr(10))[0]})"
        return Proof(verdict=Verdict.FAILED, note=note)
    prover = {"adapter": _prove_adapter, "mmproj": _prove_vision}.get(facts.holds, _prove_model)
    return prover(artifact, _Judge(run=run, reference=reference, asked=asked, known=known))


def read_facts(path: Path) -> Facts:
    """Read them. Raises what the `gguf` library raises for a file that is none."""
    reader = GGUFReader(path)
    kinds = {int(kind): name for name, kind in FILE_TYPES.items()}
    holds = str(reader.fields["general.type"].contents()) if "general.type" in reader.fields else "model"
    number = int(reader.fields["general.file_type"].contents()) if "general.file_type" in reader.fields else -1
    return Facts(
        architecture=str(reader.fields["general.architecture"].contents()),
        holds=holds,
        quantization=kinds.get(number, f"file type {number}"),
        rounded=_came_from_bfloat16(reader),
    )


def _came_from_bfloat16(reader: GGUFReader) -> bool:
    """Whether the first matrix uses no more than the 8 bits of bfloat16, though it has room for more."""
    matrix = next((tensor for tensor in reader.tensors if len(tensor.shape) > 1), None)
    if matrix is None or matrix.data.dtype not in (np.float16, np.float32):
        return False
    numbers = matrix.data.astype(np.float32).reshape(-1)[:SAMPLED]
    bits = numbers[np.abs(numbers) >= np.finfo(np.float16).tiny].view(np.uint32)
    return bool(bits.size) and not (bits & 0xFFFF).any()


@attrs.frozen(kw_only=True)
class _Judge:
    """Has files compared with one reference, of the tuned model of a run."""

    run: Run
    reference: Path
    asked: Reference
    known: dict[str, Proof]

    def whole(self, path: Path, **options: Any) -> Proof:
        """The verdict on what others are quantized from, found once."""
        key = f"{path} {path.stat().st_mtime_ns} {path.stat().st_size} {self.reference}"
        if key not in self.known:
            self.known[key] = self(path, **options)
        return self.known[key]

    def __call__(self, path: Path, name: str = "", coarsest: str = "", **options: Any) -> Proof:
        """The verdict on a text model with whatever belongs to it: `options` are the runtime's.

        `coarsest` is the type whose gate counts, where that is not the file's own.
        """
        facts = read_facts(path)
        gate = gate_of(coarsest or facts.quantization, rounded=facts.rounded, asked=self.asked)
        asked = {"context": _context(self.asked), "around": AROUND_IMAGES.get(facts.architecture, ""), **options}
        findings = ask(RUNTIME, path, self.reference, asked)
        return judge(findings, gate, name or facts.quantization)


def _prove_model(artifact: Artifact, judged: _Judge) -> Proof:
    vision = {"mmproj": str(found)} if judged.asked.images and (found := _vision_of(artifact.path)) else {}
    own = judged(artifact.path, **vision)
    source = _made_from(artifact)
    if own.verdict is Verdict.FAILED or source is None:
        return own
    whole = judged.whole(source, **vision)
    if whole.verdict is not Verdict.FAILED:
        return own
    return Proof(verdict=whole.verdict, figures=whole.figures, note=f"{own.note}; it was made from {whole.note}")


def _prove_vision(artifact: Artifact, judged: _Judge) -> Proof:
    text = _made_from(artifact) or next(iter(_texts_of(artifact.path)), None)
    if text is None:
        return Proof(verdict=Verdict.NOT_PROVED, note="there is no text model beside it to see with")
    shipped = next(iter(_texts_of(artifact.path)), text)
    name = text.name if text.parent == artifact.path.parent else f"the weights that {shipped.name} is made from"
    return judged(text, f"with {name}", mmproj=str(artifact.path))


def _prove_adapter(artifact: Artifact, judged: _Judge) -> Proof:
    base = next(iter(sorted((_work(artifact) / BASE).glob(f"*{SUFFIX}"))), None)
    if base is not None:
        return _beside(base, artifact, judged)
    if artifact.proof.note and _work(artifact).is_dir():  # the export has just tried to write it
        return Proof(verdict=Verdict.NOT_PROVED, note=artifact.proof.note)
    try:
        with tempfile.TemporaryDirectory(prefix="ftcore-") as scratch:
            return _beside(_written_base(judged.run, Path(scratch, f"base{SUFFIX}")), artifact, judged)
    except (RunError, OSError) as error:
        note = f"an adapter alone answers nothing, and its base model cannot be put beside it: {error}"
        return Proof(verdict=Verdict.NOT_PROVED, note=note)


def _written_base(run: Run, target: Path) -> Path:
    """The base model of the run's adapter as a GGUF. Raises `RunError` where it is not there, or no such can be."""
    from ftcore_plugins.gguf.conversion.base import base_folder
    from ftcore_plugins.gguf.conversion.convert import convert
    from ftcore_plugins.gguf.conversion.lora import base_of

    saved = run.folder / "adapter"
    base, revision = base_of(saved) if saved.is_dir() else ("", "")
    if not base:
        raise RunError(f"{saved} does not say which it is; compare it with the run that it is of: --against RUN")
    convert(base_folder(base, revision), target, "f16")
    return target


def _beside(base: Path, artifact: Artifact, judged: _Judge) -> Proof:
    """The verdict on an adapter with a GGUF of its base model."""
    trained_on = artifact.details.get("trained on", "")
    name = f"adapter, trained on {trained_on} weights, beside whole ones" if trained_on else "adapter"
    return judged(base, name, ALIKE.get(trained_on, ""), lora=str(artifact.path))


def _work(artifact: Artifact) -> Path:
    """Where the export that wrote it keeps what it was made from, until it ends."""
    return artifact.path.parent.parent / WORK if artifact.kind else artifact.path / "nowhere"


def _made_from(artifact: Artifact) -> Path | None:
    """The whole weights that it was quantized from: where the export works, or beside it if they are shipped, too."""
    beside = [artifact.path.with_name(f"{_name(artifact.path)}-{whole}{SUFFIX}") for whole in WIDEST]
    is_quantized = artifact.kind and artifact.path not in beside
    there = [path for path in beside if is_quantized and path.is_file()]
    return next(iter([*sorted(_work(artifact).glob(f"*{SUFFIX}")), *there]), None)


def _vision_of(path: Path) -> Path | None:
    """The file that sees for a text model: the one of its name, or the only one beside it."""
    there = sorted(path.parent.glob(f"*{VISION}*{SUFFIX}"))
    own = [file for file in there if _name(file) == _name(path)]
    return next(iter(own or (there if len(there) == 1 else [])), None)


def _texts_of(path: Path) -> list[Path]:
    """Text models that a file sees for, the widest first."""
    there = [file for file in sorted(path.parent.glob(f"*{SUFFIX}")) if VISION not in file.name]
    own = [file for file in there if _name(file) == _name(path)] or there
    return sorted(own, key=lambda file: -file.stat().st_size)


def _name(path: Path) -> str:
    return path.stem.removeprefix(f"{VISION}-").rpartition("-")[0]


def _context(asked: Reference) -> int:
    """Tokens that the longest question takes, with its answer."""
    longest = [len(passage.ids) for passage in asked.passages]
    continued = [len(each.prompt) + len(each.ids) for each in asked.continuations]
    seen = [IMAGE_TOKENS] if asked.images else []
    return max([*longest, *continued, LEAST_CONTEXT]) + sum(seen) + 1
