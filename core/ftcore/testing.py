"""A kit for the tests of plugin authors: a run without an engine, a control that records, and the proofs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.data.encode import encode_rows, read_encoded
from ftcore.data.index import index_rows
from ftcore.data.prepare import assemble
from ftcore.data.proof import prove_labels
from ftcore.data.rows import rows_of, split_rows
from ftcore.discovery import config_class
from ftcore.fitting import misfits
from ftcore.hookspecs import hook_kinds
from ftcore.options import options_of
from ftcore.plugins import implemented_hooks
from ftcore.preflight import CORE_TABLES
from ftcore.structure import nearest, structure
from ftcore.values import Decision, Format, Part, PreparedData, Profile, Row, Rows, RowSource, Run, Step

__all__ = [
    "RecordingControl",
    "formatted",
    "heavy_imports",
    "make_config",
    "make_run",
    "plugin_faults",
    "prove_labels",
    "split",
]

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "tensorboard", "wandb", "mlflow")


def make_run(folder: Path, **tables: Mapping[str, Any]) -> Run:
    """A run in `folder`, with core tables as a profile would write them: `make_run(path, train={"epochs": 2})`.

    Raises `ValueError` with every mistake in the tables.
    """
    unknown = [name for name in tables if name not in CORE_TABLES]
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown table{nearest(unknown[0], CORE_TABLES)}")
    built = {name: make_config(cls, tables.get(name, {})) for name, cls in CORE_TABLES.items()}
    return Run(name="test", folder=folder, profile=Profile(**built))


def split(run: Run, rows: Sequence[Row]) -> Rows:
    """Rows as hooks get them, held out as the run's profile says."""
    index = index_rows(run, RowSource(parts=(Part(rows=rows),)))
    return rows_of(index, split_rows(run, index))


def formatted(run: Run, format_: Format, rows: Sequence[Row]) -> PreparedData:
    """What the engine makes of `rows` with a formatter's answer: in this process, without a cache.

    Writes into the run's folder. Prove it with `prove_labels(data, format_.processor, seed)`.
    """
    index = index_rows(run, RowSource(parts=(Part(rows=rows),)))
    folder = Path(tempfile.mkdtemp(dir=run.folder, prefix="formatted-"))
    encode_rows(run, index, format_, folder)
    encoded = read_encoded(folder)
    return assemble(index, split_rows(run, index), encoded, format_, [*index.broken, *encoded.broken])[0]


def make_config(cls: type[Any], table: Mapping[str, Any] | None = None) -> Any:
    """The options of a table, checked as a profile's are. Raises `ValueError` with every mistake."""
    value, mistakes = structure(cls, table or {}, ())
    if mistakes:
        raise ValueError("; ".join(f"{'.'.join(key)}: {text}" for key, text in mistakes))
    return value


@attrs.define(kw_only=True)
class RecordingControl:
    """A `Control` for testing a trainer: records what it is told, and decides by step number."""

    folder: Path
    save_at: tuple[int, ...] = ()
    evaluate_at: tuple[int, ...] = ()
    stop_at: int = 0
    steps: list[Step] = attrs.field(factory=list)
    evaluations: dict[int, Mapping[str, float]] = attrs.field(factory=dict)

    def step_ended(self, step: Step) -> Decision:
        """Record, and decide."""
        self.steps.append(step)
        number = step.number
        return Decision(
            evaluate=number in self.evaluate_at, checkpoint=number in self.save_at, stop=number == self.stop_at
        )

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Record."""
        self.evaluations[step] = metrics
        return Decision()

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A real, committed checkpoint below `folder`."""
        return CheckpointStore(folder=self.folder, keep=1000).commit(step)


def plugin_faults(cls: type[Any]) -> list[str]:
    """What is wrong with a plugin's class: hooks and their arguments, constructor, `Config`, help for an option."""
    faults = [] if implemented_hooks(cls) else [f"{cls.__name__} implements no hook of {', '.join(hook_kinds())}"]
    if not attrs.has(config_class(cls)):
        return [*faults, f"{cls.__name__}.Config is no attrs class"]
    faults += [f"{cls.__name__} {fault}" for fault in misfits(cls)]
    options = options_of(config_class(cls))
    return faults + [f"option {option.name} has no help" for option in options if not option.help]


def heavy_imports(module: str) -> list[str]:
    """The heavy libraries that importing `module` in a fresh interpreter loads; a plugin's face loads none."""
    code = f"import sys, {module}; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return answer.stdout.split()
