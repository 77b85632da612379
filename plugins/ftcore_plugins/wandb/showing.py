"""Histograms, tables of answers with their images, and model artifacts, as Weights & Biases shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Event
from ftcore_plugins.common.tracking import answers

__all__ = ["histograms", "log_artifact", "pictures", "samples"]

COLUMNS = ("origin", "prompt", "expected", "answer")
MOST = 512
"""Bins that a histogram there may have."""


def histograms(shown: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """`actions/target` and `actions/predicted`: how often each class came, a bin for each, in their order."""
    import wandb

    def bins(values: Sequence[float]) -> Any:
        return list(values), list(range(len(values) + 1))

    return {
        f"actions/{kind}": wandb.Histogram(np_histogram=bins(list(by.values())[:MOST])) for kind, by in shown.items()
    }


def samples(event: Event, folder: Path) -> Any:
    """A table of the answered rows of an `answers` event, each with its images."""
    import wandb

    rows = answers(event, folder)
    most = max((len(row.images) for row in rows), default=0)
    images = ["image", *(f"image_{number}" for number in range(2, most + 1))][:most]
    table = wandb.Table(columns=["step", *COLUMNS, *images])
    for row in rows:
        shown = [wandb.Image(str(path)) for path in row.images]
        texts = [getattr(row, name) for name in COLUMNS]
        table.add_data(event.step, *texts, *shown, *[None] * (most - len(shown)))
    return table


def pictures(event: Event, folder: Path) -> list[Any]:
    """The images of the answered rows, each with what was expected and answered."""
    import wandb

    return [
        wandb.Image(str(path), caption=f"{row.origin}: expected {row.expected}, answered {row.answer}")
        for row in answers(event, folder)
        for path in row.images
    ]


def log_artifact(board: Any, event: Event, facts: Mapping[str, Any]) -> None:
    """Upload what an `artifact` event tells of, from where it lies."""
    import wandb

    path = Path(str(event.values.get("path", "")))
    if not path.exists():
        board.summary.update({f"artifacts/{event.values.get('kind')}/{path.name}/uploaded": False})
        return
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{board.id}-{event.values.get('kind')}-{path.name}")[:128]
    artifact = wandb.Artifact(name, type="model", metadata=dict(facts))
    if path.is_dir():
        artifact.add_dir(str(path), skip_cache=True, policy="immutable")
    else:
        artifact.add_file(str(path), skip_cache=True, policy="immutable")
    board.log_artifact(artifact)
