"""One run: its profile, what it made, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import attrs

from ftcore.tables import DataTable, ExportTable, HardwareTable, ModelTable, RunTable, TrainTable
from ftcore.values.world import World


@attrs.frozen(kw_only=True)
class Profile:
    """The core tables of a profile, typed and checked."""

    run: RunTable = attrs.field(factory=RunTable)
    hardware: HardwareTable = attrs.field(factory=HardwareTable)
    model: ModelTable = attrs.field(factory=ModelTable)
    data: DataTable = attrs.field(factory=DataTable)
    train: TrainTable = attrs.field(factory=TrainTable)
    export: ExportTable = attrs.field(factory=ExportTable)


@attrs.frozen(kw_only=True)
class Run:
    """One run, as every hook sees it. `folder` does not exist yet while `check` is asked.

    `world` says which of the run's processes this one is; each of them calls the hooks that load, adapt and train.
    """

    name: str
    folder: Path
    profile: Profile
    resumed: bool = False
    world: World = attrs.field(factory=World)


class Verdict(StrEnum):
    """What a proof found."""

    PROVED = "proved"
    FAILED = "failed"
    NOT_PROVED = "not proved"


@attrs.frozen(kw_only=True)
class Proof:
    """An artifact was loaded in its own runtime and compared with the tuned model."""

    verdict: Verdict
    figures: Mapping[str, float] = attrs.field(factory=dict)
    note: str = ""


@attrs.frozen(kw_only=True)
class Artifact:
    """What an exporter wrote, a file or a folder, and its proof. `kind` is the exporter's name for it.

    `details` says what else a reader wants to know of it: `dtype`, `quantization`, which weights were `merged into`,
    how to `run` it. An exporter leaves `proof` alone, and answers `verify` instead.
    """

    kind: str
    path: Path
    proof: Proof = Proof(verdict=Verdict.NOT_PROVED)
    details: Mapping[str, str] = attrs.field(factory=dict)


class RunState(StrEnum):
    """How a run stands. `STOPPED` can be resumed; so can `FAILED`, once the cause is mended."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class Sample:
    """One held-out row, answered before and after training. `images` are PNG files, relative to the run's folder."""

    origin: str
    prompt: str
    expected: str
    before: str
    after: str
    images: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run ended. Losses are on held-out rows, in nats per trained token; None without such rows."""

    state: RunState
    folder: Path
    step: int = 0
    reason: str = ""
    loss_before: float | None = None
    loss_after: float | None = None
    scores_before: Mapping[str, float] = attrs.field(factory=dict)
    scores_after: Mapping[str, float] = attrs.field(factory=dict)
    samples: tuple[Sample, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
