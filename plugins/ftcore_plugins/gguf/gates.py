"""How far each type of weights may be from the tuned model, in nats.

What rounding does to a model depends on the model: q4_k_m costs 3e-4 of mean divergence where weights have the usual
size, and 0.05 to 1.5 on tiny models whose weights are ten times as large. So the gates grow with the reference's
`sensitivity`, of which the divergence is nearly a fixed multiple. Measured on 24 tiny Llamas with hidden sizes of 64
and 256, untrained and trained, and on random models of nine kinds:

| type   | multiple of the sensitivity | gate |
|--------|-----------------------------|------|
| f16    | 0.003 - 0.014               | 0.3  |
| bf16   | 0.2 - 1.0                   | 4    |
| q8_0   | 1.8 - 7.6                   | 25   |
| q6_k   | 18 - 47                     | 140  |
| q5_k_m | 56 - 220                    | 600  |
| q4_k_m | 80 - 640                    | 1300 |

On such models, missing rope frequencies, rows of q and k in the wrong order, and an adapter with its sign flipped in
one layer are found in each of these types, by themselves. On a model of usual weights (sensitivity 2e-6), the gate
of q4_k_m lies below what a broken rope costs (9e-3). In an export, the f16 that a file is made from is judged too.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftcore_plugins.common.proof.reference import Reference
from ftcore_plugins.common.proof.verdict import EXACT, WHOLE, Gate, Share, whole_gate

LIMITS: Mapping[str, Share] = {
    "f32": Share(factor=0.3, least=1e-5, most=1e-2),
    "f16": Share(factor=0.3, least=1e-5, most=1e-2),
    "bf16": Share(factor=4.0, least=5e-4, most=5e-2),
    "q8_0": Share(factor=25.0, least=2e-4, most=0.2),
    "q6_k": Share(factor=140.0, least=5e-4, most=1.0),
    "q5_k_m": Share(factor=600.0, least=1e-3, most=2.0),
    "q4_k_m": Share(factor=1300.0, least=3e-3, most=2.0),
}

OTHER = Share(factor=20_000.0, least=5e-2, most=2.0)
"""A type that ftcore does not write, made by another tool."""

UNKNOWN = 1e-3
"""The sensitivity that is taken where a reference has none: that of the tiny model, a thousand times a usual one."""

MARGIN = 10.0
"""Of a divergence's root: how sure a model may be of a token that rounding still tips over. Measured: 17 at most of
the divergence itself, which is a third of the gate or less."""

IMAGE = 20.0
"""By how much one image may diverge more than many tokens on average."""


def gate_of(quantization: str, *, rounded: bool, asked: Reference) -> Gate:
    """The gate of a file; `rounded` says that its weights were bfloat16 before, where it is not quantized."""
    kind = "bf16" if rounded and quantization in WHOLE else quantization
    limit = LIMITS.get(kind, OTHER)
    left = EXACT if asked.exact else whole_gate("bf16", exact=False, sensitivity=asked.sensitivity)
    kl_mean = min(limit.most, max(limit.least, limit.factor * (asked.sensitivity or UNKNOWN)))
    kl_mean += 0.0 if asked.exact else left.kl_mean  # no file can be nearer to the model than that is to itself
    return Gate(
        kl_mean=kl_mean,
        margin=max(left.margin, MARGIN * float(kl_mean**0.5)),
        image_kl=max(left.image_kl, IMAGE * kl_mean),
    )
