"""What a model does with the held-out rows: loss, answers, and their score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ftcore.plugins import Plugins
from ftcore.values import Artifact, Example, Outcome, Prediction, PreparedData, Run, RunState, Sample, Trainer


@attrs.frozen(kw_only=True)
class Answer:
    """A held-out row and what the model made of it."""

    origin: str
    prompt: str
    expected: str
    text: str


@attrs.frozen(kw_only=True)
class Judgement:
    """The model at one moment. `loss` is None when no rows are held out."""

    loss: float | None
    scores: Mapping[str, float]
    answers: tuple[Answer, ...]


NOTHING = Judgement(loss=None, scores={}, answers=())
"""What a process knows that has not judged itself."""


def judge(plugins: Plugins, run: Run, trainer: Trainer, data: PreparedData, processor: Any) -> Judgement:
    """Evaluate on all held-out rows and answer the first `run.samples` of them."""
    loss = trainer.evaluate()["eval_loss"] if data.validation else None
    examples = data.validation[: run.profile.run.samples]
    texts = trainer.generate(examples, run.profile.run.sample_tokens) if examples else []
    predictions = [Prediction(example=e, answer=text) for e, text in zip(examples, texts, strict=True)]
    scores = plugins.score(run, predictions) if predictions and run.world.is_main else {}
    return Judgement(loss=loss, scores=scores, answers=tuple(_answer(p, processor) for p in predictions))


def remembered(outcome: Outcome) -> Judgement | None:
    """The judgement of the untrained model, if the manifest has it."""
    if outcome.loss_before is None:
        return None
    answers = tuple(
        Answer(origin=s.origin, prompt=s.prompt, expected=s.expected, text=s.before) for s in outcome.samples
    )
    return Judgement(loss=outcome.loss_before, scores=outcome.scores_before, answers=answers)


def about(judgement: Judgement, run: Run, data: PreparedData) -> bool:
    """Whether a remembered judgement is about the rows that would be answered now."""
    rows = data.validation[: run.profile.run.samples]
    return [answer.origin for answer in judgement.answers] == [example.origin for example in rows]


def outcome(
    run: Run, before: Judgement, after: Judgement | None = None, *, step: int = 0, artifacts: Sequence[Artifact] = ()
) -> Outcome:
    """A run, judged before and, once it is trained, after."""
    texts = [answer.text for answer in after.answers] if after else [""] * len(before.answers)
    samples = tuple(
        Sample(origin=a.origin, prompt=a.prompt, expected=a.expected, before=a.text, after=text)
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


def _answer(prediction: Prediction, processor: Any) -> Answer:
    example: Example = prediction.example
    tokenizer = getattr(processor, "tokenizer", processor)
    prompt = str(tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True))
    return Answer(origin=example.origin, prompt=prompt, expected=example.replies[-1], text=prediction.answer)
