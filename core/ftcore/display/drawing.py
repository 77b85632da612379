"""The lines that show a progress, for any width: in the terminal of the run, and in `ftcore monitor`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import attrs
from rich.text import Text

from ftcore.display.curve import resampled
from ftcore.display.plain import spelled
from ftcore.display.progress import Progress
from ftcore.values import RunState

LONGEST_BAR, SHORTEST_BAR = 40, 6
TREND = 12
GAP = 2


@attrs.frozen(kw_only=True)
class Glyphs:
    """What bars and curves are made of; a terminal that lacks letters gets plain ones."""

    full: str
    empty: str
    levels: str
    braille: bool

    @classmethod
    def of(cls, encoding: str) -> Glyphs:
        """Those that a terminal with this encoding can show."""
        return UNICODE if encoding.lower().replace("-", "").startswith("utf") else ASCII


UNICODE = Glyphs(full="━", empty="─", levels="▁▂▃▄▅▆▇█", braille=True)
ASCII = Glyphs(full="#", empty="-", levels="_.-=+*#", braille=False)


def status_lines(progress: Progress, width: int, glyphs: Glyphs, now: float | None = None) -> list[Text]:
    """How far the run is, on as many lines as the width asks for. None is longer than `width` cells."""
    return [*head_lines(progress, width, glyphs, now), *flowed(figure_fields(progress, glyphs), width)]


def head_lines(progress: Progress, width: int, glyphs: Glyphs, now: float | None = None) -> list[Text]:
    """Stage, bar, steps and time left; on one line if they fit."""
    stage = []
    if progress.stage is not None and progress.state is not RunState.FINISHED:
        number, total, title = progress.stage
        stage = [Text(f"[{number}/{total}] {title}")]
    if not progress.total:
        return flowed(stage, width)
    counts = _counts(progress, now)
    room = width - sum(each.cell_len + GAP for each in (*stage, *counts))
    if room < SHORTEST_BAR:
        return flowed([*stage, *counts], width)
    return flowed([*stage, bar(progress.step / progress.total, min(room, LONGEST_BAR), glyphs), *counts], width)


def _counts(progress: Progress, now: float | None) -> list[Text]:
    share = progress.step / progress.total
    fields = [Text(f"{progress.step:,}/{progress.total:,}"), Text(f"{share:.0%}")]
    if progress.step < progress.total:
        fields.append(Text(f"{spelled(progress.seconds_left(now))} left", style="dim"))
    return fields


def figure_fields(progress: Progress, glyphs: Glyphs) -> Iterator[Text]:
    """The figures of the newest step, each a field."""
    metrics = progress.metrics
    if "loss" in metrics:
        trend = sparkline(progress.recent, TREND, glyphs)
        yield _named("loss", f"{metrics['loss']:.4f}{f' {trend}' if trend else ''}", "cyan")
    forms = {
        "learning_rate": ("lr", "{:.2e}"),
        "grad_norm": ("grad", "{:.3g}"),
        "tokens_per_second": ("", "{:,.0f} tok/s"),
        "memory": ("memory", "{:.2f} GiB"),
        "epoch": ("epoch", "{:.2f}"),
    }
    for name, (title, form) in forms.items():
        if name in metrics:
            yield _named(title, form.format(metrics[name]))
    if "eval_loss" in progress.evaluation:
        loss = f"{progress.evaluation['eval_loss']:.4f} at {progress.evaluated_at:,}"
        yield _named("held-out", loss, "magenta")
    if progress.checkpoint is not None:
        yield _named("checkpoint", f"{progress.checkpoint.step:,}", "green")
    if progress.noticed:
        yield Text(f"{progress.noticed} warning{'s' if progress.noticed > 1 else ''}", style="yellow")


def _named(title: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{title} ", "dim") if title else "", (value, style))


def flowed(fields: Iterable[Text], width: int) -> list[Text]:
    """Fields side by side, on as many lines as they need; one that is longer than a line is cut."""
    lines: list[Text] = []
    for field in fields:
        field.truncate(max(1, width))
        if lines and lines[-1].cell_len + GAP + field.cell_len <= width:
            lines[-1] = lines[-1].append(" " * GAP).append_text(field)
        else:
            lines.append(Text(no_wrap=True).append_text(field))
    return lines


def bar(share: float, width: int, glyphs: Glyphs, style: str = "cyan") -> Text:
    """A bar of `width` cells; a share that is no number is an empty one."""
    known = share if math.isfinite(share) else 0.0
    full = round(max(0.0, min(1.0, known)) * width)
    return Text.assemble((glyphs.full * full, style), (glyphs.empty * (width - full), "dim"))


def sparkline(values: Sequence[float], width: int, glyphs: Glyphs) -> str:
    """The trend of the values in at most `width` letters; empty for fewer than two."""
    if len(values) < 2:  # noqa: PLR2004
        return ""
    shown = resampled(values, width)
    low, high = min(shown), max(shown)
    top = len(glyphs.levels) - 1
    places = (0 if high == low else round((value - low) / (high - low) * top) for value in shown)
    return "".join(glyphs.levels[place] for place in places)
