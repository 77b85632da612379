"""From what was found to a verdict."""

from __future__ import annotations

import attrs

from ftcore.api import Proof, Verdict
from ftcore_plugins.common.proof.comparison import Findings


@attrs.frozen(kw_only=True)
class Gate:
    """What still is rounding: mean divergence, a margin that may tip over, and one image's divergence, in nats."""

    kl_mean: float
    margin: float
    image_kl: float


def judge(findings: Findings, gate: Gate, name: str) -> Proof:
    """The proof of an artifact that is called `name`, such as q4_k_m.

    Whatever the runtime could not be asked keeps it from being proved, and is named.
    """
    fault = _fault(findings, gate)
    figures = dict(findings.figures)
    if fault:
        return Proof(verdict=Verdict.FAILED, figures=figures, note=f"{name}: {fault}")
    if findings.unanswered or "kl_mean" not in figures:
        lacking = ", ".join(findings.unanswered) or "passages"
        return Proof(verdict=Verdict.NOT_PROVED, figures=figures, note=f"{name}: not compared: {lacking}")
    return Proof(verdict=Verdict.PROVED, figures=figures, note=f"{name}, gate {gate.kl_mean:g} on kl_mean")


def _fault(findings: Findings, gate: Gate) -> str:
    if findings.error:
        return findings.error
    if findings.faults:
        return findings.faults[0]
    # Written so that not-a-number fails.
    if not findings.figures.get("kl_mean", 0.0) < gate.kl_mean:
        return f"its answers differ from the tuned model's, gate {gate.kl_mean:g} on kl_mean"
    if not findings.surest_other < gate.margin:
        return f"it prefers another token where the tuned model is sure by {findings.surest_other:.2g} nats"
    if not findings.figures.get("image_kl", 0.0) < gate.image_kl:
        return f"it sees an image otherwise, gate {gate.image_kl:g} on image_kl"
    return ""
