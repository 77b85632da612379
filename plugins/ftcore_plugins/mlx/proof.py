"""What an MLX folder is held against, and when it is as good as the tuned model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Proof, Verdict
from ftcore_plugins.common.proof.comparison import Findings
from ftcore_plugins.common.proof.process import ask
from ftcore_plugins.common.proof.reference import read_reference
from ftcore_plugins.common.proof.verdict import EXACT, ROUNDED, Gate, judge
from ftcore_plugins.mlx.checks import lacking
from ftcore_plugins.mlx.recognition import quantization_of, read_config, reads_images

RUNTIME = "ftcore_plugins.mlx.runtime"

LEAST = Gate(kl_mean=ROUNDED.kl_mean, margin=0.8, image_kl=ROUNDED.image_kl)
"""Of what is calculated in 16 bits, and so of all but float32; quantized to 8 bits, normal weights are within it."""

TIMES = 4.0
"""Most mean divergence, as a multiple of what rounding alone makes of the model's own answers: 2.3 was measured over
180 quantized exports of 30 random tiny models."""

MOST = 2.0
"""Mean divergence above which it is another model, however much rounding does: 1.6 was the most over these exports."""

SIGMAS = 8.0
"""How sure the tuned model may be of a token that rounding changes, in standard deviations of the difference of two
logits, as `kl_mean` gives it (half the variance is the divergence): 4.7 was measured over the same exports."""

UNMEASURED = Gate(kl_mean=0.5, margin=8.0, image_kl=0.5)
"""Where rounding cannot be measured, as with mxfp4 and nvfp4."""


def prove(folder: Path, reference: Path) -> Proof:
    """Compare it with the reference, unless MLX is not there."""
    for problem in lacking(read_config(folder)):
        return Proof(verdict=Verdict.NOT_PROVED, note=problem.message)
    return judged(ask(RUNTIME, folder, reference, options_of(folder)), folder, reference)


def options_of(folder: Path) -> Mapping[str, Any]:
    """What the runtime has to know of a folder before it loads it."""
    return {"images": reads_images(read_config(folder))}


def judged(findings: Findings, folder: Path, reference: Path) -> Proof:
    """The verdict on a folder that was compared."""
    name = quantization_of(folder)
    return judge(findings, gate(name, findings, exact=read_reference(reference).exact), name or "mlx")


def with_source(proof: Proof, source: Proof, folder: Path) -> Proof:
    """The proof of a quantized model, which fails with the whole one that it was made from.

    Rounding to a few bits hides faults; the whole weights show them.
    """
    if source.verdict is not Verdict.FAILED:
        return proof
    return attrs.evolve(source, note=f"{quantization_of(folder)}, already before it was quantized: {source.note}")


def gate(name: str, findings: Findings, *, exact: bool) -> Gate:
    """What is rounding and no fault. `exact` is the reference's: nothing can be nearer to it than it is to itself."""
    rounding = findings.figures.get("rounding_kl")
    if rounding is None:
        return (EXACT if exact else ROUNDED) if name == "float32" else UNMEASURED
    kl = min(MOST, max(LEAST.kl_mean, float(f"{TIMES * rounding:.2g}")))
    return Gate(kl_mean=kl, margin=max(LEAST.margin, SIGMAS * math.sqrt(2 * kl)), image_kl=max(LEAST.image_kl, kl))
