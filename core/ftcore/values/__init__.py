"""The frozen values that flow through the hooks. Nothing here imports torch; models and tensors are opaque."""

from __future__ import annotations

from ftcore.values.rows import MASKED, Collate, Drop, Example, Format, Ledger, Part, PreparedData, Row, Rows, RowSource
from ftcore.values.runs import Artifact, Outcome, Profile, Proof, Run, RunState, Sample, Verdict
from ftcore.values.training import Control, Decision, Loaded, Prediction, Quantization, Step, StopRequest, Trainer
from ftcore.values.world import World

__all__ = [
    "MASKED",
    "Artifact",
    "Collate",
    "Control",
    "Decision",
    "Drop",
    "Example",
    "Format",
    "Ledger",
    "Loaded",
    "Outcome",
    "Part",
    "Prediction",
    "PreparedData",
    "Profile",
    "Proof",
    "Quantization",
    "Row",
    "RowSource",
    "Rows",
    "Run",
    "RunState",
    "Sample",
    "Step",
    "StopRequest",
    "Trainer",
    "Verdict",
    "World",
]
