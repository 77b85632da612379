"""What one model does with each row, and the figures that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from ftcore.checkpoints import name_of
from ftcore.errors import PluginError
from ftcore.evaluation.judge import perplexity, prompt_text
from ftcore.evaluation.rowset import Rowset, spread
from ftcore.evaluation.statistics import Draws, Interval, Ratio, interval, intervals
from ftcore.reopening import Opened, Reopened
from ftcore.values import Prediction, RowLoss

ANSWERED = 200
"""Rows that are answered unless it is said how many: answers cost far more time than losses."""

SCORED_AGAIN = 200_000
"""Answers that are scored for intervals at most: a formatter may parse each of them."""

FEWEST_DRAWS = 200

COUNT = "/"
"""Is in the names of scores that count rows of a kind, such as `target/left`: how well it answers they do not say."""

Scorer = Callable[[Sequence[Prediction]], Mapping[str, float]]


@attrs.frozen(kw_only=True)
class Weights:
    """Which weights of a run: its base, those of a checkpoint, or those that it ended with."""

    base: bool = False
    checkpoint: int | None = None

    @property
    def name(self) -> str:
        """`base`, `step-000120` or `saved`."""
        return "base" if self.base else "saved" if self.checkpoint is None else name_of(self.checkpoint)

    def folder(self, opened: Opened) -> Path | None:
        """Where they lie; None for the base. Raises `RunError` when they are not there."""
        return None if self.base else opened.weights(self.checkpoint)

    def step(self, opened: Opened) -> int:
        """The step that they are of."""
        if self.base:
            return 0
        manifest = opened.manifest
        return self.checkpoint if self.checkpoint is not None else manifest.saved_at or manifest.step


@attrs.frozen(kw_only=True)
class Answering:
    """How many rows are answered, and with how many tokens; None leaves it to the run."""

    rows: int | None = None
    tokens: int | None = None
    batch: int | None = None

    def applied(self, opened: Opened) -> Opened:
        """The run with them in its profile, where trainers look."""
        profile = opened.run.profile
        table = attrs.evolve(profile.run, sample_tokens=self.tokens or profile.run.sample_tokens)
        train = attrs.evolve(profile.train, eval_batch_size=self.batch or profile.train.eval_batch_size)
        profile = attrs.evolve(profile, run=table, train=train)
        return attrs.evolve(opened, run=attrs.evolve(opened.run, profile=profile))

    def places(self, count: int) -> list[int]:
        """Which of the rows are answered."""
        return spread(count, ANSWERED if self.rows is None else self.rows) if self.rows != 0 else []


@attrs.frozen(kw_only=True)
class Answered:
    """A row and the answer to it. `place` is its number among the rows."""

    place: int
    prompt: str
    prediction: Prediction

    @property
    def origin(self) -> str:
        """Where the row is from."""
        return self.prediction.example.origin

    @property
    def expected(self) -> str:
        """The row's own reply."""
        return self.prediction.example.replies[-1]


@attrs.frozen(kw_only=True)
class Measured:
    """What one model made of some rows: a loss each, and an answer to some. `score` is the formatter's."""

    losses: tuple[RowLoss, ...]
    answers: tuple[Answered, ...]
    score: Scorer

    @property
    def loss(self) -> Ratio:
        """Nats per trained token."""
        return Ratio([row.nats for row in self.losses], [float(row.tokens) for row in self.losses])

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The answers, as they are scored."""
        return tuple(answer.prediction for answer in self.answers)


def measure(model: Reopened, rows: Rowset, answering: Answering) -> Measured:
    """Work out the loss of each row, and answer some, greedily."""
    opened, run = model.opened, model.opened.run
    opened.stage("evaluating")
    losses = tuple(model.trainer.losses(rows.examples))
    places = answering.places(len(rows.examples))
    opened.stage("answering")
    examples = [rows.examples[place] for place in places]
    texts = model.trainer.generate(examples, run.profile.run.sample_tokens) if examples else []
    answers = [
        Answered(
            place=place,
            prompt=prompt_text(model.prepared.processor, example),
            prediction=Prediction(example=example, answer=text),
        )
        for place, example, text in zip(places, examples, texts, strict=True)
    ]

    def score(predictions: Sequence[Prediction]) -> Mapping[str, float]:
        return opened.plugins.score(run, predictions)

    return Measured(losses=losses, answers=tuple(answers), score=score)


@attrs.frozen(kw_only=True)
class Scores:
    """The scores of some answers, and how to work them out again on other draws of the same rows.

    `ratios` are those that turned out to be means over what the rows alone score: these are drawn by arithmetic.
    Any other is scored again, which may cost much.
    """

    values: Mapping[str, float]
    ratios: Mapping[str, Ratio]
    _predictions: Sequence[Prediction]
    _score: Scorer

    @property
    def rows(self) -> int:
        """How many rows were answered."""
        return len(self._predictions)

    @property
    def compared(self) -> list[str]:
        """All but counts."""
        return [name for name in self.values if COUNT not in name]

    @property
    def others(self) -> list[str]:
        """Those that are no means."""
        return [name for name in self.compared if name not in self.ratios]

    def means(self, places: Sequence[int]) -> dict[str, float]:
        """The means on these rows."""
        return {name: ratio(places) for name, ratio in self.ratios.items()}

    def again(self, places: Sequence[int]) -> dict[str, float]:
        """Any of them on these rows, scored again."""
        found = self._score([self._predictions[place] for place in places])
        return {name: found[name] for name in self.compared if name in found}

    def changed(self, other: Scores, name: str) -> int:
        """How many rows score otherwise there; how many answers differ, where a row alone has no such score."""
        if name in self.ratios and name in other.ratios:
            return self.ratios[name].changed(other.ratios[name])
        return sum(a.answer != b.answer for a, b in zip(self._predictions, other._predictions, strict=True))


def scores_of(measured: Measured) -> Scores:
    """Score the answers, all together and each alone. Raises what the formatter's `score` raises."""
    predictions, score = measured.predictions, measured.score
    values = dict(score(predictions)) if predictions else {}
    ratios = dict(_ratios(values, list(_alone(predictions, score)))) if values else {}
    return Scores(values=values, ratios=ratios, predictions=predictions, score=score)


def _alone(predictions: Sequence[Prediction], score: Scorer) -> Iterator[Mapping[str, float]]:
    try:
        for prediction in predictions:
            yield score([prediction])
    except PluginError:  # it takes several rows; then nothing is known of one
        return


def _ratios(values: Mapping[str, float], alone: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, Ratio]]:
    """A row that lacks a score has no part in it: such as one that defines no name, where names are compared."""
    for name, value in values.items():
        if COUNT in name:
            continue
        ratio = Ratio([row.get(name, 0.0) for row in alone], [float(name in row) for row in alone])
        if len(alone) and math.isclose(ratio(range(len(alone))), value, rel_tol=1e-9, abs_tol=1e-12):
            yield name, ratio


def draws_again(draws: Draws, rows: int, models: int = 1) -> Draws:
    """How many draws are scored again."""
    return draws.at_most(max(FEWEST_DRAWS, SCORED_AGAIN // max(1, rows * models)))


def figures(measured: Measured, draws: Draws) -> dict[str, Interval]:
    """Loss, perplexity and scores with their intervals; counts are left out."""
    loss = measured.loss
    rows = len(measured.losses)
    found = {"loss": interval(loss, rows, draws)}
    found["perplexity"] = found["loss"].through(perplexity)
    scores = scores_of(measured)
    answered = len(measured.answers)
    drawn: dict[str, Interval] = {}
    if scores.ratios:
        drawn |= intervals(scores.means, answered, draws)
    if scores.others:
        again = intervals(scores.again, answered, draws_again(draws, answered))
        drawn |= {name: again[name] for name in scores.others}
    return {**found, **{name: drawn[name] for name in scores.values if name in drawn}}
