"""Compare what a runtime answers with what the tuned model answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import attrs
import numpy as np

from ftcore_plugins.common.proof.questions import Distribution, Measuring, Runtime
from ftcore_plugins.common.proof.reference import Continuation, Reference

LEAST = 1e-12
"""Probability mass below which a rest is rounding."""

MOST = 1.0 + 1e-3
"""Probability mass of some tokens, with what rounding adds; more is none."""

LOWEST = -1e4
"""Log-probability of what is impossible: as good as minus infinity, and can be multiplied by zero."""

ENDED = -1
"""Stands for the token after a runtime's last one."""


class AnswerError(ValueError):
    """An answer that no comparison can be made with, and what is wrong with it."""


@attrs.frozen(kw_only=True)
class Findings:
    """What a comparison found.

    `figures` has `kl_mean` and `kl_max` (nats, of the artifact from the tuned model), `top1_agreement` (share),
    `positions`, and `image_kl` where images were asked. `surest_other` is the largest margin, in nats, of the tuned
    model's best token over its next best where the artifact prefers another one: in a passage, or where a greedy
    continuation parts. `faults` are differences that no rounding explains; `unanswered` names what the runtime, or
    the tuned model, cannot be asked. `error` says why there was no comparison.
    """

    error: str = ""
    figures: Mapping[str, float] = attrs.field(factory=dict)
    surest_other: float = 0.0
    faults: Sequence[str] = ()
    unanswered: Sequence[str] = ()


@attrs.define(kw_only=True)
class _Found:
    """Gathers findings, question by question."""

    faults: list[str] = attrs.field(factory=list)
    unanswered: list[str] = attrs.field(factory=list)
    figures: dict[str, float] = attrs.field(factory=dict)
    margins: list[float] = attrs.field(factory=list)


def compare(reference: Reference, folder: Path, runtime: Runtime) -> Findings:
    """Ask `runtime` everything in `reference`, whose images lie in `folder`."""
    found = _Found(unanswered=list(reference.unasked))
    questions: Mapping[str, Callable[[_Found, Reference, Path, Runtime], None]] = {
        "texts": _texts,
        "chat": _chats,
        "passages": _passages,
        "greedy": _greedy,
        "images": _images,
    }
    for name, question in questions.items():
        try:
            question(found, reference, folder, runtime)
        except NotImplementedError:
            found.unanswered.append(name)
        except AnswerError as error:
            found.faults.append(str(error))
    if isinstance(runtime, Measuring):
        found.figures |= runtime.measured()
    return Findings(
        figures=found.figures,
        surest_other=max(found.margins, default=0.0),
        faults=found.faults,
        unanswered=found.unanswered,
    )


def divergence(reference: np.ndarray, found: Distribution) -> float:
    """Kullback-Leibler divergence in nats of `found` from `reference` [vocabulary].

    Where only some tokens are known, all others count as one: the result is then at most the whole one. Raises
    `AnswerError` for another vocabulary, and for what is no number.
    """
    ours = _normal(reference)
    theirs = np.maximum(np.asarray(found.log_probabilities, np.float64), LOWEST)  # keeps what is no number
    if not np.isfinite(theirs).all():
        raise AnswerError("it answers with what is no number (NaN) or infinite")
    if found.ids is not None:
        return _partly(ours, theirs, np.asarray(found.ids))
    if theirs.shape != ours.shape:
        raise AnswerError(f"it has {len(theirs)} tokens, and the tuned model {len(ours)}")
    return float(np.sum(np.exp(ours) * (ours - _normal(theirs))))


def _partly(ours: np.ndarray, theirs: np.ndarray, ids: np.ndarray) -> float:
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(ours):
        raise AnswerError(f"it knows the token {int(ids.max())}, and the tuned model has {len(ours)}")
    if len(ids) == len(ours):
        return float(np.sum(np.exp(ours[ids]) * (ours[ids] - _normal(theirs))))
    known = ours[ids]
    mass = float(np.exp(theirs).sum())
    if not 0.0 < mass < MOST:
        raise AnswerError(f"the probabilities that it answers add up to {mass:.3g}")
    rest, their_rest = max(0.0, 1.0 - float(np.exp(known).sum())), max(0.0, 1.0 - mass)
    over_known = float(np.sum(np.exp(known) * (known - theirs)))
    return over_known + (rest * float(np.log(rest / max(their_rest, LEAST))) if rest > LEAST else 0.0)


def _normal(log_probabilities: np.ndarray) -> np.ndarray:
    """In float64, summing up to one: what rounding to float32 has left then counts only by its square."""
    exact: np.ndarray = np.maximum(np.asarray(log_probabilities, np.float64), LOWEST)
    top = float(exact.max())
    normal: np.ndarray = exact - (top + np.log(np.exp(exact - top).sum()))
    return normal


def margin(log_probabilities: np.ndarray) -> float:
    """How far the best token is ahead of the next best, in nats."""
    second, best = np.partition(log_probabilities, -2)[-2:]
    return float(best - second)


def _texts(found: _Found, reference: Reference, _: Path, runtime: Runtime) -> None:
    for probe in reference.texts:
        if list(runtime.tokens(probe.text)) != list(probe.ids):
            found.faults.append(f"it takes {probe.text[:40]!r} apart into other tokens")


def _chats(found: _Found, reference: Reference, _: Path, runtime: Runtime) -> None:
    for probe in reference.chats:
        if list(runtime.chat_tokens(probe.messages)) == list(probe.ids):
            continue
        if reference.day not in {"", date.today().isoformat()}:
            raise NotImplementedError("the template writes the date, and the reference is of another day")
        found.faults.append(f"its chat template gives other tokens for {str(probe.messages[-1]['content'])[:40]!r}")


def _passages(found: _Found, reference: Reference, _: Path, runtime: Runtime) -> None:
    divergences: list[float] = []
    agreed = 0
    for passage in reference.passages:
        answers = runtime.distributions(passage.ids, passage.positions)
        for wanted, answer in zip(passage.log_probabilities, answers, strict=True):
            divergences.append(divergence(wanted, answer))
            same = _best(answer) == int(wanted.argmax())
            agreed += same
            found.margins += [] if same else [margin(wanted)]
    if divergences:
        found.figures["kl_mean"] = float(np.mean(divergences))
        found.figures["kl_max"] = float(np.max(divergences))
        found.figures["top1_agreement"] = agreed / len(divergences)
        found.figures["positions"] = float(len(divergences))


def _best(found: Distribution) -> int:
    best = int(found.log_probabilities.argmax())
    return best if found.ids is None else int(found.ids[best])


def _greedy(found: _Found, reference: Reference, _: Path, runtime: Runtime) -> None:
    for wanted in reference.continuations:
        answer = runtime.greedy(wanted.prompt, len(wanted.ids))
        found.margins += _parting(wanted, answer, reference.stops)


def _parting(wanted: Continuation, answer: Sequence[int], stops: Sequence[int]) -> Iterator[float]:
    """How sure the tuned model was where the answer parts from its own, if it does.

    A runtime may give the stop token as its last, or leave it out.
    """
    padded = [*answer, *([ENDED] * len(wanted.ids))]
    for ours, theirs, ahead in zip(wanted.ids, padded, wanted.margins, strict=False):
        if ours in stops and theirs in (ENDED, *stops):
            return
        if ours != theirs:
            yield ahead
            return


def _images(found: _Found, reference: Reference, folder: Path, runtime: Runtime) -> None:
    divergences = [
        divergence(probe.log_probabilities, runtime.image_distribution(probe, folder / probe.image))
        for probe in reference.images
    ]
    if divergences:
        found.figures["image_kl"] = max(divergences)
