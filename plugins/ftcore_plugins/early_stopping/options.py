"""What the plugin may be told, and what of it could never stop a run, or would always do."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ftcore.api import Problem, Run, option

KEY = "plugin.early_stopping"

LOSSES = ("eval_loss", "eval_perplexity")
"""Figures of an evaluation of which less is better; of every score, more is."""

EVALUATIONS = 3
"""Without `patience`, so many evaluations without an improvement are one too many."""


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.early_stopping]`."""

    metric: str = option("eval_loss", help="figure of an evaluation that must improve: a loss, or eval_NAME of a score")
    patience: int | None = option(
        None,
        at_least=0,
        help="steps without improvement of metric to stop after; three evaluations if unset, 0 for never",
    )
    plateau_steps: int = option(
        0, at_least=0, help="steps without improvement of the training loss to stop after; 0 for never"
    )
    min_delta: float = option(0.0, at_least=0, help="smallest change of metric, or of the loss, that is an improvement")
    target: float | None = option(None, help="value at which to stop")
    target_metric: str = option("", help="figure of an evaluation that target is about; metric if empty")
    max_hours: float | None = option(
        None, above=0, help="hours that the run may train, all its attempts together; exports come after"
    )


def patience_of(run: Run, config: Options) -> int:
    """Steps without improvement of `metric` that end the run; 0 for none."""
    return EVALUATIONS * run.profile.train.eval_steps if config.patience is None else config.patience


def problems(run: Run, config: Options) -> Iterator[Problem]:
    """Mistakes, and what somebody who stops early may expect and does not get."""
    found = [*_mistakes(run, config)]
    yield from (Problem(key=f"{KEY}.{key}", message=text) for key, text in found)
    if not found and patience_of(run, config) and not run.profile.train.load_best:
        text = "the run ends with its last weights, not its best ones; set train.load_best = true for those"
        yield Problem(key=KEY, message=text, severity="warning")


def _mistakes(run: Run, config: Options) -> Iterator[tuple[str, str]]:
    train = run.profile.train
    target = config.target_metric or config.metric
    for key, name in (("metric", config.metric), ("target_metric", config.target_metric)):
        if name and not name.startswith("eval_"):
            yield key, f"{name!r} is no figure of an evaluation{_hint(name)}"
        elif name and name not in LOSSES and not train.eval_samples:
            yield key, f"{name} is never measured, since train.eval_samples = 0; raise it, or watch eval_loss"
    if config.target_metric and config.target is None:
        yield "target_metric", "there is no target for it; set target as well"
    if config.target is not None and target == "eval_perplexity" and config.target < 1:
        yield "target", f"a perplexity is at least 1, and never {config.target:g}; set a higher one"
    if config.target is not None and target == "eval_loss" and config.target < 0:
        yield "target", f"a loss is at least 0, and never {config.target:g}; set a higher one"
    yield from _of_evaluations(run, config)


def _of_evaluations(run: Run, config: Options) -> Iterator[tuple[str, str]]:
    every = run.profile.train.eval_steps
    if not every:
        other = config.plateau_steps or config.max_hours
        if config.patience or config.target is not None or not other:
            key = "target" if config.target is not None else "patience" if config.patience else "metric"
            yield key, f"{config.metric} is never measured, since train.eval_steps = 0; set it, such as to 100"
    elif config.patience and config.patience < every:
        yield "patience", f"{config.patience} steps are over before the next evaluation; train.eval_steps is {every}"
    elif config.patience == 0 and config.target is None and not (config.plateau_steps or config.max_hours):
        yield "patience", "nothing can stop the run; set patience, plateau_steps, target or max_hours"
    total = run.profile.train.max_steps
    if total and config.plateau_steps >= total:
        yield "plateau_steps", f"the run ends after {total} steps (train.max_steps), before this can be over"


def _hint(name: str) -> str:
    if name in ("loss", "train_loss"):
        return "; for the training loss, set plateau_steps"
    return f"; did you mean 'eval_{name}'?"
