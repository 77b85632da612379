"""What a model does with the held-out rows: loss, answers, and their score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.evaluation.samples import MOST, picture_of
from ftcore.plugins import Plugins
from ftcore.values import Artifact, Example, Outcome, Prediction, Run, RunState, Sample, Trainer


@attrs.frozen(kw_only=True)
class Answer:
    """A held-out row and what the model made of it. `images` are PNG files, relative to the run's folder."""

    origin: str
    prompt: str
    expected: str
    text: str
    images: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Judgement:
    """The model at one moment. `loss` is None when no rows are held out."""

    loss: float | None
    scores: Mapping[str, float]
    answers: tuple[Answer, ...]

    def as_json(self) -> dict[str, Any]:
        """The values of an `answers` event, but for `when`."""
        rows = [
            {"origin": a.origin, "prompt": a.prompt, "expected": a.expected, "answer": a.text, "images": a.images}
            for a in self.answers
        ]
        return {"loss": self.loss, "scores": dict(self.scores), "rows": rows}


NOTHING = Judgement(loss=None, scores={}, answers=())
"""What a process knows that has not judged itself."""


@attrs.frozen(kw_only=True)
class Judge:
    """Asks the model, as it is by then, what it makes of the held-out rows.

    With several processes each has its own judge, and all call the same methods in the same order. Scores and
    pictures are the main one's.
    """

    plugins: Plugins
    run: Run
    trainer: Trainer
    prepared: Prepared

    def whole(self) -> Judgement:
        """The loss on all held-out rows, and the answers to the first `run.samples` of them."""
        loss = self.trainer.evaluate()["eval_loss"] if self.prepared.data.validation else None
        return self.answered(self.run.profile.run.samples, loss)

    def answered(self, count: int, loss: float | None) -> Judgement:
        """The answers to the first `count` held-out rows, on all of which the loss is known."""
        examples = self.prepared.data.validation[:count]
        texts = self.trainer.generate(examples, self.run.profile.run.sample_tokens) if examples else []
        predictions = [Prediction(example=e, answer=text) for e, text in zip(examples, texts, strict=True)]
        if not self.run.world.is_main:
            return attrs.evolve(NOTHING, loss=loss)
        scores = self.plugins.score(self.run, predictions) if predictions else {}
        answers = tuple(self._answer(each, seen=place < MOST) for place, each in enumerate(predictions))
        return Judgement(loss=loss, scores=scores, answers=answers)

    def _answer(self, prediction: Prediction, *, seen: bool) -> Answer:
        example: Example = prediction.example
        return Answer(
            origin=example.origin,
            prompt=prompt_text(self.prepared.processor, example),
            expected=example.replies[-1],
            text=prediction.answer,
            images=picture_of(self.run.folder, self.prepared, example) if seen else (),
        )


def prompt_text(processor: Any, example: Example) -> str:
    """What a row asks, as a person reads it: without special tokens."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return str(tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True))


def figures(metrics: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float]:
    """Everything that an evaluation measured, by its stable names: `eval_loss`, `eval_perplexity`, `eval_NAME`."""
    grown = {"eval_perplexity": perplexity(metrics["eval_loss"])} if "eval_loss" in metrics else {}
    return {**metrics, **grown, **{f"eval_{name}": value for name, value in scores.items()}}


def perplexity(loss: float) -> float:
    """e to the loss; infinite where that is too much for a number."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def kept(found: Mapping[str, float]) -> dict[str, float]:
    """The figures that go into `metrics.jsonl`: names with a slash, such as a confusion's, are counts of one moment."""
    return {name: value for name, value in found.items() if "/" not in name}


def told(found: Mapping[str, float]) -> str:
    """The figures as a line for the user."""
    names = {"eval_loss": "held-out loss"}
    return ", ".join(f"{names.get(name, name.removeprefix('eval_'))} {value:.5g}" for name, value in found.items())


def remembered(outcome: Outcome) -> Judgement | None:
    """The judgement of the untrained model, if the manifest has it."""
    if outcome.loss_before is None:
        return None
    answers = tuple(
        Answer(origin=s.origin, prompt=s.prompt, expected=s.expected, text=s.before, images=s.images)
        for s in outcome.samples
    )
    return Judgement(loss=outcome.loss_before, scores=outcome.scores_before, answers=answers)


def about(judgement: Judgement, run: Run, prepared: Prepared) -> bool:
    """Whether a remembered judgement is about the rows that would be answered now."""
    rows = prepared.data.validation[: run.profile.run.samples]
    return [answer.origin for answer in judgement.answers] == [example.origin for example in rows]


def outcome(
    run: Run, before: Judgement, after: Judgement | None = None, *, step: int = 0, artifacts: Sequence[Artifact] = ()
) -> Outcome:
    """A run, judged before and, once it is trained, after."""
    texts = [answer.text for answer in after.answers] if after else [""] * len(before.answers)
    samples = tuple(
        Sample(origin=a.origin, prompt=a.prompt, expected=a.expected, before=a.text, after=text, images=a.images)
        for a, text in zip(before.answers, texts, strict=True)
    )
    return Outcome(
        state=RunState.FINISHED if after else RunState.RUNNING,
        folder=run.folder,
        step=step,
        loss_before=before.loss,
        loss_after=after.loss if after else None,
        scores_before=before.scores,
        scores_after=after.scores if after else {},
        samples=samples,
        artifacts=tuple(artifacts),
    )
