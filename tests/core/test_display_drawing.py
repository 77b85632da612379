"""What is drawn of a run: lines for every width, bars, curves, and the live view at the bottom of a terminal."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from rich.console import Console

from ftcore.display.chart import Line, chart
from ftcore.display.drawing import ASCII, UNICODE, Glyphs, bar, sparkline, status_lines
from ftcore.display.lines import Lines
from ftcore.display.live import BETWEEN, Live
from ftcore.display.progress import Progress
from ftcore.values import Event, EventKind, Point, Step


def event(kind, /, step=0, **values):
    return Event(kind=EventKind(kind), step=step, time=0.0, values=values)


METRICS = {"learning_rate": 2e-4, "grad_norm": 0.5, "tokens_per_second": 12345.6, "memory": 5.25, "epoch": 0.5}


@pytest.fixture
def progress():
    found = Progress()
    told = [event("stage", number=5, total=7, title="training"), event("started", from_step=0, total_steps=2000)]
    told += [Point(step=n, time=float(n), metrics={"loss": 3.0 / n, **METRICS}) for n in range(1, 501)]
    told += [Point(step=400, time=400.0, metrics={"eval_loss": 0.5})]
    told += [event("checkpoint", step=400, path="checkpoints/step-000400")]
    told += [event("notice", step=9, sign="x", text="y")]
    for one in told:
        found = found.after(one)
    return found


WIDE = """\
[5/7] training  ━━━━━━━━━━──────────────────────────────  500/2,000  25%  25:00 left
loss 0.0060 █▇▇▆▅▅▄▃▃▂▂▁  lr 2.00e-04  grad 0.5  12,346 tok/s  memory 5.25 GiB  epoch 0.50
held-out 0.5000 at 400  checkpoint 400  1 warning"""

NARROW = """\
[5/7] training  500/2,000  25%
25:00 left
loss 0.0060 █▇▇▆▅▅▄▃▃▂▂▁
lr 2.00e-04  grad 0.5
12,346 tok/s  memory 5.25 GiB
epoch 0.50
held-out 0.5000 at 400
checkpoint 400  1 warning"""


@pytest.mark.parametrize(("width", "shown"), [(100, WIDE), (30, NARROW)])
def test_the_picture(progress, width, shown):
    assert "\n".join(line.plain for line in status_lines(progress, width, UNICODE)) == shown


@pytest.mark.parametrize("width", [1, 2, 7, 20, 33, 79, 80, 132, 400])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_no_line_is_longer_than_the_terminal_is_wide(progress, width, glyphs):
    lines = status_lines(progress, width, glyphs)
    assert max(line.cell_len for line in lines) <= width
    if glyphs is ASCII:
        assert all(line.plain.isascii() or "…" in line.plain for line in lines)


def test_before_the_first_step_there_is_the_stage_alone():
    found = Progress().after(event("stage", number=2, total=7, title="formatting data"))
    assert [line.plain for line in status_lines(found, 80, UNICODE)] == ["[2/7] formatting data"]
    assert status_lines(Progress(), 80, UNICODE) == []


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", UNICODE), ("UTF-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII)]
)
def test_a_terminal_gets_the_letters_that_it_has(encoding, glyphs):
    assert Glyphs.of(encoding) is glyphs


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "----"), (0.5, "##--"), (1.0, "####"), (7.0, "####"), (float("nan"), "----")]
)
def test_bars(share, shown):
    assert bar(share, 4, ASCII).plain == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [((), ""), ((1.0,), ""), ((1.0, 2.0), "▁█"), ((2.0, 2.0), "▁▁"), (tuple(range(8, 0, -1)), "█▇▆▅▄▃▂▁")],
)
def test_sparklines(values, shown):
    assert sparkline(values, 12, UNICODE) == shown


def drawn(lines):
    return [line.plain.rstrip() for line in lines]


def test_a_chart_has_a_legend_a_curve_and_its_ends():
    falling = Line(name="loss", style="cyan", points=[(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)])
    assert drawn(chart([falling], 22, 4, ASCII)) == [
        "          loss 1",
        "        4 **",
        "            ****",
        "                ***",
        "        1          ***",
        "          1     step 4",
    ]
    assert drawn(chart([falling], 18, 2, UNICODE))[1:3] == ["        4 ⠉⠒⠤⣀", "        1     ⠉⠒⠤⣀"]


def test_a_steep_curve_does_not_fall_apart():
    steep = Line(name="loss", style="", points=[(1, 0.0), (2, 100.0)])
    rows = drawn(chart([steep], 19, 9, ASCII))[1:-1]
    assert all("*" in row for row in rows)


@pytest.mark.parametrize(
    ("points", "width", "height"),
    [([], 80, 8), ([(1, 1.0)], 12, 8), ([(1, 1.0)], 80, 1)],
    ids=["empty", "narrow", "low"],
)
def test_without_points_or_room_there_is_no_chart(points, width, height):
    assert chart([Line(name="loss", style="", points=points)], width, height, UNICODE) == []


def test_one_value_is_a_chart_too():
    assert drawn(chart([Line(name="loss", style="", points=[(5, 2.0)])], 40, 3, ASCII))[3] == "        2 *"


# -- the live view --------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def live(clock):
    """A live view on a terminal that is a string."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20, legacy_windows=False)
    shown = Live(console, clock=lambda: clock[0])
    shown.text = console.file.getvalue
    yield shown
    shown.close()


def step(number, total=100, **metrics):
    return Step(number=number, total=total, epoch=0.25, metrics={"loss": 1.0 / number, **metrics})


def test_it_draws_at_most_a_few_times_a_second(live, clock):
    drawings = []
    for number in range(1, 101):
        before = len(live.text())
        live.step(step(number))
        drawings.append(len(live.text()) > before)
        clock[0] += BETWEEN / 10
    assert 10 <= sum(drawings) <= 12
    live.close()
    assert "100/100" in live.text(), "the last step is shown, however soon it came"


def test_lines_go_above_it_and_the_terminal_is_given_back(live, clock):
    before = sys.stderr
    live.event(event("stage", number=5, total=7, title="training"))
    live.step(step(1))
    live.say("warning: [b]careful[/b]")
    clock[0] += 1
    live.event(event("checkpoint", step=2, path="checkpoints/step-000002"))
    live.point(Point(step=2, time=0.0, metrics={"eval_loss": 0.75}))
    live.step(step(2))
    live.close()
    live.say("after it")
    text = live.text()
    assert sys.stderr is before
    assert "warning: [b]careful[/b]" in text
    assert "[5/7] training" in text
    assert "held-out" in text
    assert text.index("careful") < text.rindex("checkpoint") < text.index("after it")
    assert "\x1b[?25l" not in text or "\x1b[?25h" in text


def test_a_terminal_that_gets_narrower_is_drawn_for_its_new_width(live, clock):
    live.step(step(1, learning_rate=1e-3, grad_norm=1.0, tokens_per_second=5.0))
    live._console.width = 24
    clock[0] += 1
    before = len(live.text())
    live.step(step(2))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", live.text()[before:])
    assert max(len(line) for line in plain.replace("\r", "\n").split("\n")) <= 24


def test_training_may_begin_again_after_it_was_closed(live):
    live.step(step(1))
    live.close()
    live.close()
    live.step(step(2))
    live.close()
    assert "2/100" in live.text()


# -- for programs ---------------------------------------------------------------------------------


def test_programs_get_an_object_a_line_with_the_names_of_the_journal():
    written = []
    lines = Lines(written.append)
    lines.stage(1, 7, "reading rows")
    lines.event(event("stage", number=1, total=7, title="reading rows"))
    lines.step(step(3))
    lines.point(Point(step=3, time=5.0, metrics={"loss": 1.0, "grad_norm": float("inf")}))
    lines.event(event("checkpoint", step=3, path="checkpoints/step-000003"))
    lines.say("two\nlines")
    lines.fail("it broke", 1)
    lines.close()
    found = [json.loads(line) for line in written]
    assert all("\n" not in line for line in written)
    times = [line.pop("time") for line in found]
    assert all(isinstance(time, float) for time in times)
    assert found == [
        {"event": "stage", "step": 0, "number": 1, "total": 7, "title": "reading rows"},
        {"step": 3, "loss": 1.0, "grad_norm": None},
        {"event": "checkpoint", "step": 3, "path": "checkpoints/step-000003"},
        {"event": "said", "step": 3, "text": "two\nlines"},
        {"event": "error", "step": 3, "text": "it broke", "exit_code": 1},
    ]
