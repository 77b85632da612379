"""`manifest.json`: what ran, on what, and how it ended."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import RunError
from ftcore.files import write_json
from ftcore.hardware.machine import this_machine
from ftcore.journal.lines import number_of
from ftcore.plugins import Active
from ftcore.secrets import settings_without_logins
from ftcore.values import Artifact, Ledger, Outcome, Proof, RunState, Sample, Verdict

FILE = "manifest.json"
TRAINERS = ("ftcore", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "tokenizers")
RUNTIMES = ("safetensors", "numpy", "gguf", "xllamacpp", "sentencepiece", "mlx", "mlx-lm", "mlx-vlm")
LIBRARIES = (*TRAINERS, *RUNTIMES)
BITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG")


@attrs.frozen(kw_only=True)
class Manifest:
    """Everything that a later reader needs to know about a run. Fields are stable; new ones may be added.

    `saved_at` is the step whose weights lie in `adapter/` or `model/`; it is behind `step` while a run trains on.
    `saved_after` is the step that the run had come to by then: a later one, where the best checkpoint's weights were
    put back. `best` is the best checkpoint that the run has: its `step`, and the `value` of the `metric` there.
    `stopped_at` is the step that a plugin ended training at before its end, `stop_reason` why; `reason` is why the run
    itself ended as it did.
    `micro_batch_size` is what several processes went on with when memory ran out for that of the settings; else 0.
    `settings` are the resolved profile, without logins in addresses.
    `folder` is where the run lay when this was written: paths in `exports` begin with it.
    """

    name: str
    created: str
    settings: Mapping[str, Any]
    plugins: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]
    environment: Mapping[str, Any]
    state: RunState = RunState.RUNNING
    reason: str = ""
    ended: str = ""
    data: Mapping[str, Any] = attrs.field(factory=dict)
    model: Mapping[str, Any] = attrs.field(factory=dict)
    step: int = 0
    total_steps: int = 0
    stopped_at: int = 0
    stop_reason: str = ""
    saved_at: int = 0
    saved_after: int = 0
    micro_batch_size: int = 0
    best: Mapping[str, Any] = attrs.field(factory=dict)
    loss: Mapping[str, float | None] = attrs.field(factory=lambda: {"before": None, "after": None})
    scores: Mapping[str, Mapping[str, float]] = attrs.field(factory=lambda: {"before": {}, "after": {}})
    samples: Sequence[Mapping[str, Any]] = attrs.field(factory=list)
    exports: Sequence[Mapping[str, Any]] = attrs.field(factory=list)
    resumes: Sequence[Mapping[str, Any]] = attrs.field(factory=list)
    folder: str = ""

    @property
    def last_resume(self) -> Mapping[str, Any]:
        """How the run was last told to go on; empty if it never was."""
        return self.resumes[-1] if self.resumes else {}

    @property
    def measured_otherwise(self) -> int:
        """The last step whose evaluations were on other rows than the run has now, or of another base model."""
        changed, last = False, 0
        for resume in self.resumes:
            changed = changed or "data_changed_from" in resume or "model_changed_from" in resume
            if changed and "from_step" in resume:  # else it was killed before it got so far
                changed, last = False, resume["from_step"]
        return last

    def write(self, folder: Path) -> None:
        """Replace the manifest of the run in `folder`, whole or not at all."""
        write_json(folder / FILE, attrs.asdict(self.lying_in(folder)))

    def lying_in(self, folder: Path) -> Manifest:
        """This manifest of a run that has been moved to `folder`, or copied: what it exported has come along."""
        place = str(folder.absolute())
        if self.folder in ("", place):
            return attrs.evolve(self, folder=place)
        exports = [_moved(export, self.folder, place) for export in self.exports]
        return attrs.evolve(self, folder=place, exports=exports)

    def with_outcome(self, outcome: Outcome) -> Manifest:
        """This manifest with how the run stands."""
        return attrs.evolve(
            self,
            state=outcome.state,
            reason=outcome.reason,
            step=outcome.step,
            loss={"before": outcome.loss_before, "after": outcome.loss_after},
            scores={"before": dict(outcome.scores_before), "after": dict(outcome.scores_after)},
            samples=[{**attrs.asdict(sample), "images": list(sample.images)} for sample in outcome.samples],
            exports=[artifact_as_json(artifact) for artifact in outcome.artifacts],
        )

    def with_artifact(self, artifact: Artifact) -> Manifest:
        """This manifest with an artifact in the place of an older one of the same path."""
        others = [export for export in self.exports if export["path"] != str(artifact.path)]
        return attrs.evolve(self, exports=[*others, artifact_as_json(artifact)])

    def artifacts(self) -> tuple[Artifact, ...]:
        """What was exported, as far as the run has come."""
        return tuple(_artifact(export) for export in self.exports)

    def outcome(self, folder: Path) -> Outcome:
        """How the run in `folder` ended, or how far it is, as the value that `run` returns."""
        return Outcome(
            state=RunState(self.state),
            folder=folder,
            step=self.step,
            reason=self.reason,
            loss_before=self.loss["before"],
            loss_after=self.loss["after"],
            scores_before=self.scores["before"],
            scores_after=self.scores["after"],
            samples=tuple(_sample(sample) for sample in self.samples),
            artifacts=self.artifacts(),
        )


def new_manifest(name: str, settings: Mapping[str, Any], active: Sequence[Active]) -> Manifest:
    """The manifest of a run that is about to start."""
    return Manifest(
        name=name,
        created=now(),
        settings=settings_without_logins(settings),
        plugins=plugins_of(active),
        versions=versions(),
        environment=_environment(),
    )


def plugins_of(active: Sequence[Active]) -> list[Mapping[str, str]]:
    """The plugins that are on, and where they come from."""
    return [{"name": p.source.name, "distribution": p.source.distribution, "version": p.source.version} for p in active]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the run in `folder`. Raises `RunError` when there is none or it is damaged."""
    try:
        values = json.loads((folder / FILE).read_text("utf-8"))
        known = {field.name for field in attrs.fields(Manifest)}
        manifest = Manifest(**{name: value for name, value in values.items() if name in known})
        manifest.outcome(folder)  # raises for a value of the wrong kind, which a list of runs would stumble over
        _require_kinds(manifest)
        return manifest.lying_in(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} is no run folder: it has no {FILE}") from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RunError(f"{folder / FILE} is damaged: {error}") from None


def _require_kinds(manifest: Manifest) -> None:
    kinds: Mapping[type[Any], tuple[str, ...]] = {
        dict: ("settings", "versions", "environment", "data", "model", "best", "loss", "scores"),
        list: ("plugins", "samples", "exports", "resumes"),
        int: ("step", "total_steps", "stopped_at", "saved_at", "saved_after", "micro_batch_size"),
        str: ("name", "created", "ended", "reason", "stop_reason", "folder"),
    }
    for kind, names in kinds.items():
        for name in names:
            if not isinstance(getattr(manifest, name), kind):
                raise ValueError(f"{name} is of another kind")
    figures = [*manifest.loss.values(), *(figure for scores in manifest.scores.values() for figure in scores.values())]
    ledger = {"dropped": {}, **manifest.data.get("ledger", {})}
    figures += [*ledger.pop("dropped").values(), *ledger.values()]
    if any(number_of(figure) is None for figure in figures):
        raise ValueError("a loss, a score or a count of rows is no number")


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ledger_as_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger with dropped rows counted by reason."""
    return {
        "rows": ledger.rows,
        "trained": ledger.trained,
        "held_out": ledger.held_out,
        "dropped": dict(ledger.reasons),
        "repeated": ledger.repeated,
    }


def artifact_as_json(artifact: Artifact) -> dict[str, Any]:
    """An artifact in the stable form of `exports[]`."""
    proof = {"verdict": artifact.proof.verdict, "figures": dict(artifact.proof.figures), "note": artifact.proof.note}
    return {"kind": artifact.kind, "path": str(artifact.path), "details": dict(artifact.details), "proof": proof}


def _sample(sample: Mapping[str, Any]) -> Sample:
    return Sample(**{**sample, "images": tuple(sample.get("images", ()))})


def _artifact(export: Mapping[str, Any]) -> Artifact:
    proof = export["proof"]
    figures = {name: math.nan if value is None else value for name, value in proof["figures"].items()}  # see write_json
    return Artifact(
        kind=export["kind"],
        path=Path(export["path"]),
        proof=Proof(verdict=Verdict(proof["verdict"]), figures=figures, note=proof["note"]),
        details=export.get("details", {}),
    )


def _moved(export: Mapping[str, Any], before: str, now: str) -> Mapping[str, Any]:
    path = Path(export["path"])
    if not path.is_relative_to(before):
        return export
    details = {name: value.replace(before, now) for name, value in export.get("details", {}).items()}
    return {**export, "path": str(now / path.relative_to(before)), "details": details}


def versions() -> dict[str, str]:
    """Those of the installed libraries that what a run writes depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _environment() -> dict[str, Any]:
    found = this_machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "executable": sys.executable,
        "cpus": os.cpu_count(),
        "chip": found.chip,
        "memory": round(found.memory, 1),  # GiB
        "gpus": [str(card) for card in found.cards],
        # Losses are bit-equal only where these and the number of threads are.
        "bits": {name: os.environ[name] for name in BITS if name in os.environ},
    }
