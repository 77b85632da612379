"""The whole picture of a run, as `ftcore monitor` draws it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping

from rich.cells import cell_len, chop_cells
from rich.text import Text

from ftcore.display.chart import Line, chart
from ftcore.display.drawing import Glyphs, bar, flowed, status_lines
from ftcore.display.progress import EVALUATED, Progress
from ftcore.display.watching import Watched
from ftcore.errors import printable
from ftcore.values import RunState

GPU = re.compile(r"system/gpu(\d+)/(.+)")
STYLES = {"running": "bold cyan", "finished": "bold green", "stopped": "bold yellow"}
BAR = 20
SHORTEST_CHART, TALLEST_CHART = 4, 12
AROUND_CHART = 3
"""Rows of a chart's legend and axis, and the empty one above."""

SHOWN_NOTICES = 3
MOST_SCORES = 8
LEAVE = "q leaves; the run goes on"
LAST_MEASURED = "the machine, as it was measured last:"


def dashboard(watched: Watched, width: int, height: int, glyphs: Glyphs, *, hint: bool = False) -> list[Text]:
    """Everything on lines of at most `width` cells; the chart takes what is left of `height`."""
    progress = watched.progress
    now = time.time() if watched.is_running else None
    above = [*_title(watched, width), *status_lines(progress, width, glyphs, now), *_scores(progress, width)]
    machine = [*_machine(progress.metrics, width, glyphs)]
    if machine and not watched.is_running:
        machine = [Text(LAST_MEASURED[:width], "dim"), *machine]
    below = [*machine, *_notices(progress, width), *_artifacts(progress, width)]
    below += [Text(LEAVE[:width], "dim")] if hint else []
    room = height - len(above) - len(below) - AROUND_CHART - 1
    rows = max(SHORTEST_CHART, min(TALLEST_CHART, room))
    return [*above, *_curves(progress, width, rows, glyphs), *below]


def _title(watched: Watched, width: int) -> list[Text]:
    style = STYLES.get(watched.state, "bold red")
    fields = [Text(printable(watched.folder.name), "bold"), Text(watched.state, style)]
    if watched.holder is not None:
        fields.append(Text(f"pid {watched.holder.pid} on {printable(watched.holder.host)}", "dim"))
    lines = flowed(fields, width)
    if watched.reason and watched.state != RunState.RUNNING:
        lines += wrapped(watched.reason, width)
    return lines


def _scores(progress: Progress, width: int) -> list[Text]:
    """What evaluations measured, but for the loss, which is shown above, and figures of tables."""
    shown = {
        name.removeprefix(EVALUATED): value
        for name, value in progress.evaluation.items()
        if name != "eval_loss" and "/" not in name
    }
    fields = [Text.assemble((f"{printable(name)} ", "dim"), f"{value:.3f}") for name, value in shown.items()]
    return flowed(fields[:MOST_SCORES], width)


def _curves(progress: Progress, width: int, rows: int, glyphs: Glyphs) -> list[Text]:
    lines = [
        Line(name="loss", style="cyan", points=progress.losses.points()),
        Line(name="held-out loss", style="magenta", points=progress.eval_losses.points()),
    ]
    drawn = chart(lines, width, rows, glyphs)
    return [Text(), *drawn, Text()] if drawn else []


def _machine(metrics: Mapping[str, float], width: int, glyphs: Glyphs) -> Iterator[Text]:
    """A line for each GPU and one for the host, with what was measured of them."""
    gpus: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        if found := GPU.fullmatch(name):
            gpus.setdefault(int(found[1]), {})[found[2]] = value
    for number in sorted(gpus):
        yield from flowed(_gpu(number, gpus[number], glyphs), width)
    host = {name.removeprefix("system/"): value for name, value in metrics.items() if name.startswith("system/")}
    yield from flowed(_host(host, glyphs), width)


def _gpu(number: int, found: Mapping[str, float], glyphs: Glyphs) -> Iterator[Text]:
    yield Text(f"gpu{number} ", "dim")
    if "utilization" in found:
        yield _share(found["utilization"], glyphs, "")
    forms = {"memory": "{:.1f} GiB", "temperature": "{:.0f} °C", "power": "{:.0f} W"}
    for name, form in forms.items():
        if name in found:
            text = form.format(found[name])
            yield Text(text if glyphs.braille else text.replace("°", ""))


def _host(found: Mapping[str, float], glyphs: Glyphs) -> Iterator[Text]:
    if "cpu" in found:
        yield Text("host ", "dim")
        yield _share(found["cpu"], glyphs, " cpu")
    titles = {"host_memory": "in use", "process_memory": "of them by the run", "disk_read": "read from disks"}
    for name, title in titles.items():
        if name in found:
            yield Text.assemble(f"{found[name]:.1f} GiB ", (title, "dim"))


def _share(percent: float, glyphs: Glyphs, title: str) -> Text:
    return bar(percent / 100, BAR, glyphs).append(f" {percent:.0f}%{title}")


def _notices(progress: Progress, width: int) -> Iterator[Text]:
    for mark in progress.notices[-SHOWN_NOTICES:]:
        if mark.notice is not None:
            parts = (mark.notice.text, mark.notice.advice, mark.notice.page and f"see {mark.notice.page}")
            text = "; ".join(part for part in parts if part)
            yield from wrapped(f"warning: step {mark.step:,}: {text}", width, "yellow")


def _artifacts(progress: Progress, width: int) -> list[Text]:
    return flowed((Text(f"{printable(kind)}: {printable(verdict)}") for kind, verdict in progress.artifacts), width)


def wrapped(text: str, width: int, style: str = "") -> list[Text]:
    """Text on as many lines as it needs, broken between words; what moves a cursor is escaped."""
    lines: list[str] = []
    for word in printable(text).split(" "):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines += chop_cells(word, width) or [""]
    return [Text(line, style, no_wrap=True) for line in lines]
