"""A run as another process sees it: only from the files in its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ftcore.display.progress import Mark, Progress
from ftcore.files import finite
from ftcore.locks import Holder, holder_of
from ftcore.manifest import read_manifest
from ftcore.runs import state_of
from ftcore.tracking.cursor import Cursor
from ftcore.tracking.following import news
from ftcore.values import Event, Point, RunState


class Watched:
    """The run in `folder`, looked at again and again. `progress` and `state` are those of the last look.

    Raises `RunError` when there is no run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.state = ""
        self.reason = ""
        self.holder: Holder | None = None
        self.progress = Progress()
        self._cursor = Cursor()
        for _ in self._news():
            pass

    @property
    def is_running(self) -> bool:
        """Whether a live process works on it."""
        return self.state == RunState.RUNNING

    def look(self) -> list[Point | Event]:
        """What was written since the last look, in order; none is missing once the run has ended."""
        return list(self._news())

    def _news(self) -> Iterator[Point | Event]:
        manifest = read_manifest(self.folder)
        self.state, self.reason = state_of(self.folder, manifest), manifest.reason
        self.holder = holder_of(self.folder) if self.is_running else None
        for each in news(self.folder, self._cursor):
            told = each.points if each.event is None else (each.event,)
            for one in told:
                self.progress = self.progress.after(one)
                yield one
            self._cursor = each.after

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the names of docs/journal.md."""
        progress = self.progress
        stage = dict(zip(("number", "total", "title"), progress.stage, strict=True)) if progress.stage else None
        plain: dict[str, Any] = finite(
            {
                "name": self.folder.name,
                "folder": str(self.folder),
                "state": self.state,
                "reason": self.reason,
                "stage": stage,
                "step": progress.step,
                "total_steps": progress.total,
                "seconds_left": progress.seconds_left(time.time()) if self.is_running else None,
                "metrics": dict(progress.metrics),
                "evaluation": {"step": progress.evaluated_at, **progress.evaluation} if progress.evaluation else None,
                "checkpoint": _checkpoint(progress.checkpoint),
                "notices": [_notice(mark) for mark in progress.notices],
                "artifacts": [{"kind": kind, "verdict": verdict} for kind, verdict in progress.artifacts],
                "curves": {"loss": progress.losses.points(), "eval_loss": progress.eval_losses.points()},
            }
        )
        return plain


def _checkpoint(mark: Mark | None) -> dict[str, Any] | None:
    return None if mark is None else {"step": mark.step, "time": mark.time, "path": mark.path}


def _notice(mark: Mark) -> dict[str, Any]:
    return {"step": mark.step, "time": mark.time, **(attrs.asdict(mark.notice) if mark.notice else {})}
