"""`report.json`: the end of a run for other programs."""

from __future__ import annotations

from pathlib import Path

from ftcore.files import write_json
from ftcore.manifest import Manifest

FILE = "report.json"


def write_report(folder: Path, manifest: Manifest) -> None:
    """Write the report; its keys are stable."""
    report = {
        "name": manifest.name,
        "outcome": manifest.state,
        "reason": manifest.reason,
        "step": manifest.step,
        "total_steps": manifest.total_steps,
        "loss": manifest.loss,
        "scores": manifest.scores,
        "samples": list(manifest.samples),
        "ledger": manifest.data.get("ledger", {}),
        "exports": list(manifest.exports),
    }
    write_json(folder / FILE, report)
