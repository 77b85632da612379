"""The end of a run on one screen: loss before and after, a sample, and where everything lies."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console

from ftcore.display import is_terminal
from ftcore.errors import printable
from ftcore.isolation import Traced
from ftcore.shipping.verification import figures_of
from ftcore.values import Artifact, Outcome, Sample, Verdict

SHOWN_LINES = 8


def print_summary(outcome: Outcome) -> None:
    """Write the summary to standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in summary_lines(outcome):
        console.print(line)


def summary_lines(outcome: Outcome) -> Iterator[str]:
    """The summary, line by line."""
    yield ""
    yield f"{outcome.state} after {outcome.step} steps{f': {outcome.reason}' if outcome.reason else ''}"
    # Those with a slash are cells of a table, such as a confusion; report.json has them all.
    scores = {name: after for name, after in outcome.scores_after.items() if "/" not in name}
    width = max(map(len, ["held-out loss", *scores]))
    if outcome.loss_before is not None and outcome.loss_after is not None:
        worse = "; worse than before training" if outcome.loss_after > outcome.loss_before else ""
        yield f"{'held-out loss':<{width}}  {outcome.loss_before:.4f} before, {outcome.loss_after:.4f} after{worse}"
    for name, after in scores.items():
        yield f"{name:<{width}}  {outcome.scores_before.get(name, float('nan')):.3f} before, {after:.3f} after"
    for sample in outcome.samples[:1]:
        yield from _sample_lines(sample)
    yield ""
    for artifact in outcome.artifacts:
        yield from artifact_lines(artifact)
    yield f"{'run':<14} {outcome.folder}"
    for name, place in (("adapter", "adapter"), ("model", "model"), ("report", "report.html")):
        if (outcome.folder / place).exists():
            yield f"{name:<14} {outcome.folder / place}"


def artifact_lines(artifact: Artifact) -> Iterator[str]:
    """Where it lies, what its proof found, and how it is run."""
    figures = figures_of(artifact.proof)
    yield f"{artifact.kind:<14} {artifact.path}"
    yield f"{'':<14} {artifact.proof.verdict}{': ' if figures else ''}{figures}"
    if artifact.proof.note:
        yield f"{'':<14} {artifact.proof.note}"
    if artifact.proof.verdict is not Verdict.FAILED:
        yield from (f"{'':<14} {line}" for line in artifact.details.get("run", "").splitlines())


def _sample_lines(sample: Sample) -> Iterator[str]:
    yield ""
    yield f"sample from {sample.origin}"
    texts = {"prompt": sample.prompt, "expected": sample.expected, "before": sample.before, "after": sample.after}
    for title, text in texts.items():
        lines = text.strip().splitlines() or ["(nothing)"]
        yield f"  {title}:"
        yield from (f"    {printable(line[:110])}" for line in lines[:SHOWN_LINES])
        if len(lines) > SHOWN_LINES:
            yield f"    ... {len(lines) - SHOWN_LINES} more lines"


def print_trace(traced: Sequence[Traced]) -> None:
    """Write to standard error who answered which hook, how often, and how long it took."""
    groups: dict[tuple[str, str], list[Traced]] = defaultdict(list)
    for call in traced:
        groups[call.hook, call.plugin].append(call)
    console = Console(stderr=True, highlight=False, width=None if is_terminal(sys.stderr) else 120)
    console.print(f"{'hook':<16} {'plugin':<20} {'calls':>6} {'answers':>8} {'seconds':>9}")
    for (hook, plugin), calls in groups.items():
        answers, seconds = sum(call.answered for call in calls), sum(call.seconds for call in calls)
        console.print(f"{hook:<16} {plugin:<20} {len(calls):>6} {answers:>8} {seconds:>9.3f}", markup=False)
