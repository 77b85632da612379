"""From what was found to a verdict."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ftcore.api import Proof, Verdict
from ftcore_plugins.common.proof.comparison import Findings


@attrs.frozen(kw_only=True)
class Gate:
    """What still is rounding: mean divergence, a margin that may tip over, and one image's divergence, in nats."""

    kl_mean: float
    margin: float
    image_kl: float


EXACT = Gate(kl_mean=1e-4, margin=0.1, image_kl=1e-2)
"""Where both models calculate in float32 and the weights are written in float32 or float16: rounding was measured
at 1e-12 and 4e-6 of mean divergence, a broken rope at 9e-3."""

ROUNDED = Gate(kl_mean=5e-3, margin=0.5, image_kl=5e-2)
"""Where bfloat16 or quantized weights play a part: rounding to bfloat16 was measured at 2e-5 on Llama 3 and at up
to 7e-4 on the tiny model, whose weights are ten times larger on purpose."""

WHOLE: Mapping[str, Gate] = {
    "float32": EXACT,
    "f32": EXACT,
    "float16": EXACT,
    "f16": EXACT,
    "bfloat16": ROUNDED,
    "bf16": ROUNDED,
}


@attrs.frozen(kw_only=True)
class Share:
    """Mean divergence that is rounding: a multiple of the tuned model's sensitivity, from `least` to `most` nats."""

    factor: float
    least: float
    most: float


SHARES: Mapping[Gate, Share] = {
    EXACT: Share(factor=1.0, least=1e-5, most=1e-2),
    ROUNDED: Share(factor=20.0, least=5e-4, most=5e-2),
}
"""Over 15 random models of five families in transformers, float16 lost 0.02 to 0.21 of the sensitivity (from 3e-10 to
2e-4 nats) and bfloat16 1.0 to 4.5 times it (1e-8 to 2e-3). One figure for all would call some of them faults, and
miss an adapter with a flipped sign where the model is sure of everything (3e-5). A model that is more sensitive than
any of these must not let everything pass: whatever diverges by more than `most` is another model."""


def whole_gate(dtype: str, *, exact: bool, sensitivity: float = 0.0) -> Gate:
    """The gate of weights of a type that is not quantized, whichever program wrote them.

    `exact` and `sensitivity` are the reference's: no artifact can be nearer to a tuned model than that is to itself.
    """
    gate = WHOLE[dtype] if exact else ROUNDED
    share = SHARES[gate]
    if not sensitivity:
        return gate
    return attrs.evolve(gate, kl_mean=min(share.most, max(share.least, share.factor * sensitivity)))


def judge(findings: Findings, gate: Gate, name: str) -> Proof:
    """The proof of an artifact that is called `name`, such as q4_k_m.

    Whatever could not be asked keeps it from being proved, and is named.
    """
    fault = _fault(findings, gate)
    figures = dict(findings.figures)
    if fault:
        return Proof(verdict=Verdict.FAILED, figures=figures, note=f"{name}: {fault}")
    if findings.unanswered or "kl_mean" not in figures:
        lacking = ", ".join(findings.unanswered) or "passages"
        return Proof(verdict=Verdict.NOT_PROVED, figures=figures, note=f"{name}: not compared: {lacking}")
    return Proof(verdict=Verdict.PROVED, figures=figures, note=f"{name}, gate {gate.kl_mean:.2g} on kl_mean")


def _fault(findings: Findings, gate: Gate) -> str:
    if findings.error:
        return findings.error
    if findings.faults:
        return findings.faults[0]
    # Written so that not-a-number fails.
    if not findings.figures.get("kl_mean", 0.0) < gate.kl_mean:
        return f"its answers differ from the tuned model's, gate {gate.kl_mean:.2g} on kl_mean"
    if not findings.surest_other < gate.margin:
        return f"it prefers another token where the tuned model is sure by {findings.surest_other:.2g} nats"
    if not findings.figures.get("image_kl", 0.0) < gate.image_kl:
        return f"it sees an image otherwise, gate {gate.image_kl:.2g} on image_kl"
    return ""
