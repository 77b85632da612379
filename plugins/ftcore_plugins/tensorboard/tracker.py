"""What is shown of a run in TensorBoard. Each process that follows the run writes a file of its own."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Event, EventKind, Point, Run, RunState, read_events, read_points
from ftcore_plugins.common.tracking import (
    Answered,
    answers,
    artifact_facts,
    counted,
    flat,
    grouped,
    judged,
    machine,
    model_facts,
    noticed,
)
from ftcore_plugins.tensorboard.files import Files

__all__ = ["open_tracker"]


def open_tracker(folder: Path, run: Run, settings: Mapping[str, Any], sent: int) -> TensorBoardTracker:
    """Go on with the files there: what was shown from the step `sent` on may be torn, and is shown anew."""
    logging.getLogger("ftcore.plugins.tensorboard").info("tensorboard --logdir %s shows the run", folder)
    earlier = {path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")}
    if str(int(time.time())) in earlier:
        time.sleep(1.0)  # files are read in the order of their names, which tell the second
    tracker = TensorBoardTracker(Files(folder), run, settings)
    tracker.show_again(sent) if earlier else tracker.begin()
    return tracker


class TensorBoardTracker:
    """See `ftcore.api.Tracker`."""

    def __init__(self, files: Files, run: Run, settings: Mapping[str, Any]) -> None:
        self._files, self._run, self._settings = files, run, settings
        self._facts: dict[str, Any] = {}
        self._shown: set[tuple[int, str, float]] = set()
        self._images: dict[Path, int] = {}
        self._step = 0

    def begin(self) -> None:
        """Only a start that is not the first hides what was before it."""
        self._files.purge(0, time.time())

    def show_again(self, sent: int) -> None:
        """Hide what earlier files hold from the step `sent` on, and take it from the journal, up to that step.

        What is behind it comes from the follower, with some of this once more.
        """
        self._files.purge(sent, time.time())
        for event in read_events(self._run.folder / "events.jsonl"):
            if event.step == sent:
                self.tell(event)
        self.send([point for point in read_points(self._run.folder / "metrics.jsonl") if point.step == sent])

    def send(self, points: Sequence[Point]) -> None:
        """A point of a curve for each figure."""
        for point in points:
            self._step = point.step
            if self._is_new(point.step, "eval" if any(name.startswith("eval_") for name in point.metrics) else "train"):
                self._files.scalars(grouped(point.metrics), point.step, point.time)
        self._files.flush()

    def tell(self, event: Event) -> None:
        """Facts become text and hyper-parameters, answers text with their images, and what is wrong text."""
        if event.kind == EventKind.STARTED:
            self._begin(event)
        elif self._is_new(event.step, f"{event.kind} {event.values.get('when', '')}", event.time):
            self._show(event)
        self._files.flush()

    def close(self, state: RunState, reason: str) -> None:
        """Say how the run has ended."""
        self._files.text("outcome", f"{state}: {reason}" if reason else str(state), self._step, time.time())
        self._files.ended(well=state != RunState.FAILED, time=time.time())
        self._files.flush()

    def _begin(self, event: Event) -> None:
        done = int(event.values.get("from_step", 0))
        if done:
            self._files.purge(done + 1, event.time)
            self._shown = {key for key in self._shown if key[0] <= done}
            self._images = {path: step for path, step in self._images.items() if step <= done}
        parameters = {**flat(self._settings), **machine(self._run.folder), **self._facts}
        self._files.hyper_parameters(parameters, self._run.folder.name, event.time)
        self._files.text("settings", _code(self._settings), 0, event.time)

    def _show(self, event: Event) -> None:
        match event.kind:
            case EventKind.MODEL:
                self._facts.update(model_facts(event))
                self._files.text("model", _table(self._facts), 0, event.time)
            case EventKind.ANSWERS:
                self._show_answers(event)
            case EventKind.ARTIFACT:
                facts = artifact_facts(event, self._run.folder)
                name = next(iter(facts)).removesuffix("/path")
                self._files.text(name, _table(facts), event.step, event.time)
            case EventKind.NOTICE:
                sign, text = noticed(event)
                self._files.text(f"notices/{sign}", text, event.step, event.time)

    def _show_answers(self, event: Event) -> None:
        rows = answers(event, self._run.folder)
        when = event.values.get("when")
        self._files.text(f"samples/{when}", _answers(rows), event.step, event.time)
        self._files.scalars(judged(event), event.step, event.time)
        self._show_counts(counted(event), event.step, event.time)
        for row in rows:
            for number, image in enumerate(row.images, start=1):
                if self._images.setdefault(image, event.step) == event.step:  # it stays the same all along
                    name = f"samples/{row.origin}{f'/{number}' if number > 1 else ''}"
                    self._files.image(name, image, event.step, event.time)

    def _show_counts(self, by_kind: Mapping[str, Mapping[str, float]], step: int, time: float) -> None:
        for kind, by in by_kind.items():
            self._files.bars(f"actions/{kind}", list(by.values()), step, time)
        if by_kind:
            target, predicted = by_kind.values()
            names = {name: f"{count:g} | {predicted[name]:g}" for name, count in target.items()}
            self._files.text("actions", _table(names, "action | target | predicted"), step, time)

    def _is_new(self, *key: Any) -> bool:
        """Whether this process has not shown it; what follows a step is given anew when the run goes back to it."""
        if key in self._shown:
            return False
        self._shown.add(key)
        return True


def _code(settings: Mapping[str, Any]) -> str:
    return "    " + json.dumps(flat(settings), indent=2, ensure_ascii=False).replace("\n", "\n    ")


def _table(facts: Mapping[str, Any], head: str = "name | value") -> str:
    lines = [head, " | ".join("---" for _ in head.split("|")), *(f"{name} | {value}" for name, value in facts.items())]
    return "\n".join(f"| {line} |" for line in lines)


def _answers(rows: Sequence[Answered]) -> str:
    lines = [[row.origin, row.prompt, row.expected, row.answer] for row in rows]
    table = [["row", "prompt", "expected", "answer"], ["---"] * 4, *([_cell(text) for text in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _cell(text: str) -> str:
    """As a cell of a Markdown table shows it, whatever the model has written."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("`", "&#96;")
    return escaped.replace("\r", "").replace("\n", "<br>")
