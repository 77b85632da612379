"""Answers and counts as tables that MLflow's pages show, and counts as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ftcore_plugins.common.tracking import Answered

__all__ = ["answers_table", "counts_picture", "counts_table"]

TEXTS = ("prompt", "expected", "answer")
WIDTH, HEIGHT, LABELS, BAR, GAP = 48, 160, 90, 18, 4
COLOURS = {"target": "#4c78a8", "predicted": "#f58518"}


def answers_table(rows: Sequence[Answered], folder: Path) -> dict[str, Any]:
    """In the form of `mlflow.log_table`; images are cells that name a file of the MLflow run."""
    most = max((len(row.images) for row in rows), default=0)
    columns = ["origin", *(f"image {n}" for n in range(1, most + 1)), *TEXTS]
    data = []
    for row in rows:
        cells = [_cell(path, folder) for path in row.images]
        data.append([row.origin, *cells, *[None] * (most - len(cells)), *(getattr(row, name) for name in TEXTS)])
    return {"columns": columns, "data": data}


def counts_table(counts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One row for each class."""
    rows = [[name, count, counts["predicted"][name]] for name, count in counts["target"].items()]
    return {"columns": ["class", "target", "predicted"], "data": rows}


def counts_picture(counts: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Two bars for each class, target and predicted, as SVG."""
    names = list(counts["target"])
    most = max([1.0, *counts["target"].values(), *counts["predicted"].values()])
    width = max(WIDTH * len(names) + 2 * GAP, 240)
    parts = [_text(GAP, 16, title)]
    for place, kind in enumerate(COLOURS):
        parts.append(_text(GAP + 80 * place, 34, kind, COLOURS[kind]))
        for index, name in enumerate(names):
            left = GAP + WIDTH * index + BAR * place
            tall = HEIGHT * counts[kind][name] / most
            top = 50 + HEIGHT - tall
            parts.append(
                f'<rect x="{left}" y="{top:.1f}" width="{BAR}" height="{tall:.1f}" fill="{COLOURS[kind]}">'
                f"<title>{escape(name)}: {kind} {counts[kind][name]:g}</title></rect>"
            )
    parts += [_label(GAP + WIDTH * index + BAR, name) for index, name in enumerate(names)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{50 + HEIGHT + LABELS}">'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'


def _cell(path: Path, folder: Path) -> dict[str, str]:
    name = path.relative_to(folder.resolve()).as_posix()
    return {"type": "image", "filepath": name, "compressed_filepath": name}


def _label(left: float, name: str) -> str:
    top = 50 + HEIGHT + 12
    return _text(left, top, name[:16], turn=f' transform="rotate(45 {left} {top})"')


def _text(left: float, top: float, text: str, colour: str = "black", turn: str = "") -> str:
    style = f'font-family="sans-serif" font-size="12" fill="{colour}"'
    return f'<text x="{left}" y="{top}" {style}{turn}>{escape(text)}</text>'
