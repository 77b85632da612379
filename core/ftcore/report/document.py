"""`report.json` for programs, and `report.html` for people, in the folder of a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcore.files import replace_text, write_json
from ftcore.manifest import Manifest
from ftcore.report.judged import brief
from ftcore.report.outcome import parameters, seconds_of
from ftcore.report.page import page
from ftcore.report.record import Record, read_record
from ftcore.values import EventKind

FILE = "report.json"
PAGE = "report.html"


def write_report(folder: Path, manifest: Manifest, say: Callable[[str], None] = lambda _: None) -> None:
    """Write both. `report.json` comes first, and whole: what keeps the page from being made is told to `say`.

    Raises `OSError` when `report.json` cannot be written.
    """
    try:
        record = read_record(folder, manifest)
        found = as_json(record)
    except Exception as error:  # a journal that somebody has damaged, say, must not cost the run its figures
        write_json(folder / FILE, _of_manifest(manifest, str(manifest.state)))
        say(_not_written(folder, error))
        return
    write_json(folder / FILE, found)
    try:
        replace_text(folder / PAGE, page(record))
    except Exception as error:  # the run is over, and nothing depends on its page
        say(_not_written(folder, error))


def as_json(record: Record) -> dict[str, Any]:
    """What `report.json` holds; its keys are stable, and listed in docs/report.md."""
    data = record.latest(EventKind.DATA)
    return {
        **_of_manifest(record.manifest, record.state),
        "created": record.manifest.created,
        "ended": record.manifest.ended,
        "seconds": seconds_of(record),
        "parameters": dict(parameters(record)),
        "curves": {name: curve.summary.as_json() for name, curve in sorted(record.curves.items())},
        "notices": [{"step": event.step, **event.values} for event in record.of(EventKind.NOTICE)],
        "checkpoints": [{"step": event.step, **event.values} for event in record.of(EventKind.CHECKPOINT)],
        "evaluated": [_evaluated(event.step, event.values) for event in record.of(EventKind.ANSWERS)],
        "evaluations": brief(record),
        "proved": data.get("proved"),
        "model": dict(record.manifest.model),
        "resumes": list(record.manifest.resumes),
        "settings": dict(record.manifest.settings),
        "plugins": list(record.manifest.plugins),
        "versions": dict(record.manifest.versions),
        "environment": dict(record.manifest.environment),
    }


def _of_manifest(manifest: Manifest, state: str) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "outcome": state,
        "reason": manifest.reason,
        "step": manifest.step,
        "total_steps": manifest.total_steps,
        "saved_at": manifest.saved_at,
        "best": dict(manifest.best),
        "loss": manifest.loss,
        "scores": manifest.scores,
        "samples": list(manifest.samples),
        "ledger": manifest.data.get("ledger", {}),
        "exports": list(manifest.exports),
    }


def _evaluated(step: int, values: Any) -> dict[str, Any]:
    return {"step": step, "when": values.get("when"), "loss": values.get("loss"), "scores": values.get("scores") or {}}


def _not_written(folder: Path, error: Exception) -> str:
    why, again = f"{type(error).__name__}: {error}", f"ftcore report {shlex.quote(str(folder))}"
    return f"warning: {folder / PAGE} was not written ({why}); to try again: {again}"
