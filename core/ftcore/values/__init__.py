"""The frozen values that flow through the hooks. Nothing here imports torch; models and tensors are opaque."""

from __future__ import annotations

from ftcore.values.rows import (
    MASKED,
    TOO_LONG,
    Collate,
    Drop,
    Example,
    Format,
    Ledger,
    Part,
    PreparedData,
    Row,
    Rows,
    RowSource,
)
from ftcore.values.runs import Artifact, Outcome, Profile, Proof, Run, RunState, Sample, Verdict
from ftcore.values.training import (
    Control,
    Decision,
    Loaded,
    Prediction,
    Quantization,
    RowLoss,
    SavedAs,
    Step,
    StopRequest,
    Trainer,
)
from ftcore.values.watching import Event, EventKind, Notice, Point, Tracker
from ftcore.values.world import World

__all__ = [
    "MASKED",
    "TOO_LONG",
    "Artifact",
    "Collate",
    "Control",
    "Decision",
    "Drop",
    "Event",
    "EventKind",
    "Example",
    "Format",
    "Ledger",
    "Loaded",
    "Notice",
    "Outcome",
    "Part",
    "Point",
    "Prediction",
    "PreparedData",
    "Profile",
    "Proof",
    "Quantization",
    "Row",
    "RowLoss",
    "RowSource",
    "Rows",
    "Run",
    "RunState",
    "Sample",
    "SavedAs",
    "Step",
    "StopRequest",
    "Tracker",
    "Trainer",
    "Verdict",
    "World",
]
