"""Judge an earlier run, a checkpoint of it or its base, on any rows, without training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.display import Display
from ftcore.evaluation.measuring import Answering, Measured, Weights, figures, measure, scores_of
from ftcore.evaluation.rowset import Rowset, Wanted, choose_rows
from ftcore.evaluation.samples import picture_of
from ftcore.evaluation.statistics import LEVEL, METHOD, Draws, Interval
from ftcore.files import write_json
from ftcore.manifest import now
from ftcore.reopening import STAGES, Opened, opened, read_rows, reopen

EVALUATIONS = "evaluations"
PICTURES = 16
"""Answers whose pictures are kept."""
STEPS = ("evaluating", "answering")


@attrs.frozen(kw_only=True)
class Evaluation:
    """One model on some rows. `figures` are loss, perplexity and scores; `counts` are scores that count rows."""

    run: Path
    weights: str
    step: int
    rows: Rowset
    figures: Mapping[str, Interval]
    counts: Mapping[str, float]
    samples: Sequence[Mapping[str, Any]]
    draws: Draws
    path: Path

    def as_json(self) -> dict[str, Any]:
        """The stable form, which docs/evaluation.md describes."""
        loss, perplexity, *_ = self.figures.values()
        scores = {name: each.as_json() for name, each in self.figures.items() if name not in ("loss", "perplexity")}
        return {
            "run": self.run.name,
            "weights": self.weights,
            "step": self.step,
            "time": now(),
            "rows": {
                "name": self.rows.name,
                "count": len(self.rows.examples),
                "answered": len(self.samples),
                "left_out": dict(self.rows.left_out),
            },
            "loss": loss.as_json(),
            "perplexity": perplexity.as_json(),
            "scores": scores,
            "counts": dict(self.counts),
            "interval": {"level": LEVEL, "method": METHOD, "seed": self.draws.seed},
            "samples": list(self.samples),
        }


def evaluate_again(
    folder: Path,
    *,
    wanted: Wanted,
    weights: Weights,
    answering: Answering,
    draws: int,
    sets: Sequence[str] = (),
    allow_changes: bool = False,
    display: Display | None = None,
) -> Evaluation:
    """Judge the run in `folder` and write what was found into its `evaluations/`.

    Raises `ProfileError` for rows that are not there, and `RunError` when the run has no such weights, when another
    process holds it, or when there is nothing to judge by.
    """
    with opened(folder, sets=sets, allow_changes=allow_changes, display=display) as run:
        held = attrs.evolve(answering.applied(run), stages=(*STAGES, *STEPS))
        return _evaluated(held, wanted, weights, answering, draws)


def _evaluated(opened: Opened, wanted: Wanted, weights: Weights, answering: Answering, count: int) -> Evaluation:
    place = weights.folder(opened)  # before anything is read
    prepared = read_rows(opened)
    rows = choose_rows(opened, prepared, wanted)
    model = reopen(opened, prepared)
    if place is not None:
        model.put(place)
    measured = measure(model, rows, answering)
    draws = Draws(count=count, seed=opened.run.profile.run.seed)
    scores = scores_of(measured)
    found = figures(measured, draws)
    path = opened.run.folder / EVALUATIONS / f"{_file_name(rows.name, weights)}.json"
    evaluation = Evaluation(
        run=opened.run.folder,
        weights=weights.name,
        step=weights.step(opened),
        rows=rows,
        figures=found,
        counts={name: value for name, value in scores.values.items() if name not in found},
        samples=_samples(measured, prepared, opened.run.folder),
        draws=draws,
        path=path,
    )
    path.parent.mkdir(exist_ok=True)
    write_json(path, evaluation.as_json())
    return evaluation


def _samples(measured: Measured, prepared: Prepared, folder: Path) -> list[dict[str, Any]]:
    """Every answer; the first ones with their pictures, if the rows have some."""
    return [
        {
            "origin": one.origin,
            "prompt": one.prompt,
            "expected": one.expected,
            "answer": one.prediction.answer,
            "images": list(picture_of(folder, prepared, one.prediction.example)) if place < PICTURES else [],
        }
        for place, one in enumerate(measured.answers)
    ]


def _file_name(rows: str, weights: Weights) -> str:
    """Such as `validation` or `test.jsonl-step-000120`."""
    plain = re.sub(r"[^\w.-]+", "_", rows).lstrip(".") or "rows"
    return plain if weights.name == "saved" else f"{plain}-{weights.name}"
