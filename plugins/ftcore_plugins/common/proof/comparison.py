"""Compare what a runtime answers with what the tuned model answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ftcore_plugins.common.proof.questions import Distribution, Runtime
from ftcore_plugins.common.proof.reference import Continuation, Reference

LEAST = 1e-12
"""Probability mass below which a rest is rounding."""


@attrs.frozen(kw_only=True)
class Findings:
    """What a comparison found.

    `figures` has `kl_mean` and `kl_max` (nats, of the artifact from the tuned model), `top1_agreement` (share),
    `positions`, and `image_kl` where images were asked. `surest_other` is the largest margin, in nats, of the tuned
    model's best token over its next best where the artifact prefers another one: in a passage, or where a greedy
    continuation parts. `faults` are differences that no rounding explains; `unanswered` names what the runtime
    cannot be asked.
    """

    error: str = ""
    figures: Mapping[str, float] = attrs.field(factory=dict)
    surest_other: float = 0.0
    faults: Sequence[str] = ()
    unanswered: Sequence[str] = ()


def compare(reference: Reference, folder: Path, runtime: Runtime) -> Findings:
    """Ask `runtime` everything in `reference`, whose images lie in `folder`."""
    faults: list[str] = []
    unanswered: list[str] = []
    figures: dict[str, float] = {}
    margins: list[float] = []
    for name, question in (
        ("texts", lambda: faults.extend(_texts(reference, runtime))),
        ("chat", lambda: faults.extend(_chats(reference, runtime))),
        ("passages", lambda: figures.update(_passages(reference, runtime, margins))),
        ("greedy", lambda: margins.extend(_partings(reference.continuations, runtime))),
        ("images", lambda: figures.update(_images(reference, folder, runtime))),
    ):
        try:
            question()
        except NotImplementedError:
            unanswered.append(name)
    return Findings(figures=figures, surest_other=max(margins, default=0.0), faults=faults, unanswered=unanswered)


def divergence(reference: np.ndarray, found: Distribution) -> float:
    """Kullback-Leibler divergence in nats of `found` from `reference` [vocabulary].

    Where only some tokens are known, all others count as one: the result is then at most the whole one.
    """
    wanted = reference.astype(np.float64)
    theirs = found.log_probabilities.astype(np.float64)
    if found.ids is None or len(found.ids) >= len(wanted):
        order = slice(None) if found.ids is None else np.argsort(found.ids)
        return float(np.sum(np.exp(wanted) * (wanted - theirs[order])))
    ours = wanted[found.ids]
    rest, their_rest = (max(0.0, 1.0 - float(np.exp(part).sum())) for part in (ours, theirs))
    known = float(np.sum(np.exp(ours) * (ours - theirs)))
    return known + (rest * float(np.log(rest / max(their_rest, LEAST))) if rest > LEAST else 0.0)


def margin(log_probabilities: np.ndarray) -> float:
    """How far the best token is ahead of the next best, in nats."""
    second, best = np.partition(log_probabilities, -2)[-2:]
    return float(best - second)


def _texts(reference: Reference, runtime: Runtime) -> Iterator[str]:
    for probe in reference.texts:
        if list(runtime.tokens(probe.text)) != list(probe.ids):
            yield f"it takes {probe.text[:40]!r} apart into other tokens"


def _chats(reference: Reference, runtime: Runtime) -> Iterator[str]:
    for probe in reference.chats:
        if list(runtime.chat_tokens(probe.messages)) != list(probe.ids):
            yield f"its chat template gives other tokens for {str(probe.messages[-1]['content'])[:40]!r}"


def _passages(reference: Reference, runtime: Runtime, margins: list[float]) -> dict[str, float]:
    divergences: list[float] = []
    agreed = 0
    for passage in reference.passages:
        answers = runtime.distributions(passage.ids, passage.positions)
        for wanted, found in zip(passage.log_probabilities, answers, strict=True):
            divergences.append(divergence(wanted, found))
            same = _best(found) == int(wanted.argmax())
            agreed += same
            margins += [] if same else [margin(wanted)]
    if not divergences:
        return {}
    return {
        "kl_mean": float(np.mean(divergences)),
        "kl_max": float(np.max(divergences)),
        "top1_agreement": agreed / len(divergences),
        "positions": float(len(divergences)),
    }


def _best(found: Distribution) -> int:
    best = int(found.log_probabilities.argmax())
    return best if found.ids is None else int(found.ids[best])


def _partings(continuations: Sequence[Continuation], runtime: Runtime) -> Iterator[float]:
    for wanted in continuations:
        found = [*runtime.greedy(wanted.prompt, len(wanted.ids)), *([-1] * len(wanted.ids))]
        pairs: Any = zip(wanted.ids, found, wanted.margins, strict=False)
        yield next((ahead for ours, theirs, ahead in pairs if ours != theirs), 0.0)


def _images(reference: Reference, folder: Path, runtime: Runtime) -> dict[str, float]:
    found = [
        divergence(probe.log_probabilities, runtime.image_distribution(probe, folder / probe.image))
        for probe in reference.images
    ]
    return {"image_kl": max(found)} if found else {}
