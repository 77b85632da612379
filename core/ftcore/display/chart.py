"""Curves in a terminal, in Braille dots: two by four to a letter."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from rich.text import Text

from ftcore.display.drawing import Glyphs

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille letter (Unicode, block 2800), by row and column."""

BLANK = 0x2800
LABEL = 9
Points = Sequence[tuple[int, float]]


@attrs.frozen(kw_only=True)
class Line:
    """One curve of a chart: its name, the style it is drawn in, and steps with values."""

    name: str
    style: str
    points: Points


class Canvas:
    """Dots that become letters. Without Braille, a letter is one dot."""

    def __init__(self, columns: int, rows: int, glyphs: Glyphs) -> None:
        self._columns, self._rows, self._braille = columns, rows, glyphs.braille
        self.width, self.height = (columns * 2, rows * 4) if glyphs.braille else (columns, rows)
        self._bits = [[0] * columns for _ in range(rows)]
        self._styles = [[""] * columns for _ in range(rows)]

    def dot(self, x: int, y: int, style: str) -> None:
        """Set the dot at `x` from the left and `y` from the bottom."""
        down = self.height - 1 - y
        across, tall = (2, 4) if self._braille else (1, 1)
        row, column = down // tall, x // across
        self._bits[row][column] |= DOTS[down % tall][x % across]
        self._styles[row][column] = style

    def line(self, row: int) -> Text:
        """One line of letters."""
        text = Text(no_wrap=True)
        for bits, style in zip(self._bits[row], self._styles[row], strict=True):
            dot = chr(BLANK + bits) if self._braille else "*"
            text.append(dot if bits else " ", style)
        return text


def chart(lines: Sequence[Line], width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """The curves over one axis, `height` rows with the steps below. Empty when there is nothing to draw."""
    drawn = [line for line in lines if line.points]
    columns = width - LABEL - 1
    if not drawn or height < 2 or columns < 8:  # noqa: PLR2004
        return []
    values = [value for line in drawn for _, value in line.points]
    steps = [step for line in drawn for step, _ in line.points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    canvas = Canvas(columns, height, glyphs)
    for line in drawn:
        _draw(canvas, line, (first, last), (low, high))
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}"} if high > low else {height - 1: f"{low:.4g}"}
    rows = [Text(f"{labels.get(row, ''):>{LABEL}} ", "dim").append_text(canvas.line(row)) for row in range(height)]
    return [_legend(drawn, width), *rows, _axis(first, last, columns)]


def _draw(canvas: Canvas, line: Line, steps: tuple[int, int], values: tuple[float, float]) -> None:
    """Dots, joined by upright strokes, so that a steep curve does not fall apart."""
    before: tuple[int, int] | None = None
    for step, value in line.points:
        x = _placed(step, steps, canvas.width)
        y = _placed(value, values, canvas.height)
        for column, height in _joined(before, (x, y)):
            canvas.dot(column, height, line.style)
        before = (x, y)


def _joined(before: tuple[int, int] | None, now: tuple[int, int]) -> list[tuple[int, int]]:
    if before is None:
        return [now]
    (x0, y0), (x1, y1) = before, now
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * n / count), round(y0 + (y1 - y0) * n / count)) for n in range(1, count + 1)]


def _placed(value: float, ends: tuple[float, float], count: int) -> int:
    low, high = ends
    return 0 if high == low else round((value - low) / (high - low) * (count - 1))


def _legend(lines: Sequence[Line], width: int) -> Text:
    text = Text(" " * (LABEL + 1), no_wrap=True)
    for line in lines:
        text.append(f"{line.name} {line.points[-1][1]:.4g}  ", line.style)
    text.truncate(width)
    return text


def _axis(first: int, last: int, columns: int) -> Text:
    start, end = f"{first:,}", f"step {last:,}"
    return Text(f"{'':>{LABEL}} {start}{end:>{max(1, columns - len(start))}}", "dim", no_wrap=True)
