"""The hooks, in the order in which a run calls them.

A plugin implements any of them as methods, each marked with `hookimpl`, and names only the arguments
that it needs. Four kinds say how many plugins may answer and what becomes of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from ftcore.errors import Problem
from ftcore.values import (
    Artifact,
    Format,
    Loaded,
    Notice,
    Outcome,
    Prediction,
    PreparedData,
    Proof,
    Quantization,
    Row,
    Rows,
    RowSource,
    Run,
    Step,
    StopRequest,
    Tracker,
    Trainer,
)

PROJECT = "ftcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

F = TypeVar("F", bound=Callable[..., Any])


class Kind(StrEnum):
    """How many plugins may implement a hook, and what becomes of their answers."""

    EXACTLY_ONE = "exactly one"
    AT_MOST_ONE = "at most one"
    ALL = "all"
    OBSERVERS = "observers"


def _hook(kind: Kind) -> Callable[[F], F]:
    def mark(function: F) -> F:
        function.kind = kind  # type: ignore[attr-defined]
        return hookspec(function, firstresult=kind in (Kind.EXACTLY_ONE, Kind.AT_MOST_ONE))

    return mark


class Hooks:
    """Every hook of ftcore. Raise `RunError` for what is wrong with data, model or machine."""

    @_hook(Kind.ALL)
    def check(self, run: Run) -> Sequence[Problem] | None:
        """Find what can be known without heavy imports: a missing file, token, converter, or disk space.

        Asked before anything is loaded, and by `ftcore check`. `run.folder` does not exist yet.
        """

    @_hook(Kind.AT_MOST_ONE)
    def launch(self, run: Run, command: Sequence[str]) -> int | None:
        """Start `command` as every worker of the run on this machine, wait, and return an exit code.

        Each worker learns which one it is from `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE`, and
        from `FTCORE_RESTART` how often it was started again: then it goes on from the last checkpoint.
        Without an answer (or with None) the run goes on in this process.
        """

    @_hook(Kind.AT_MOST_ONE)
    def share(self, run: Run, value: str | None) -> str | None:
        """Tell every process of the run what the main one says, and return it. The others give None.

        Each process calls it, in the same order, and none goes on before all have, however long that takes.
        Never asked in a run of one process.
        """

    @_hook(Kind.OBSERVERS)
    def run_started(self, run: Run, settings: Mapping[str, Any]) -> None:
        """The run folder is there and locked. `settings` is the resolved profile, as nested tables."""

    @_hook(Kind.EXACTLY_ONE)
    def load_rows(self, run: Run) -> RowSource | Sequence[Row]:  # type: ignore[empty-body]
        """Find the raw rows, in a stable order. The engine splits off the held-out ones."""

    @_hook(Kind.EXACTLY_ONE)
    def load_processor(self, run: Run, rows: Rows) -> Any:
        """Load the tokenizer or processor, without the model's weights."""

    @_hook(Kind.EXACTLY_ONE)
    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> Format:  # type: ignore[empty-body]
        """Say how a row becomes tokens and labels. The engine does it, and proves the labels.

        `rows` are there to look at the first ones: which columns they have, say.
        """

    @_hook(Kind.AT_MOST_ONE)
    def quantize(self, run: Run) -> Quantization | None:
        """Options that the loader reads the weights with, so that they shrink as they are read."""

    @_hook(Kind.AT_MOST_ONE)
    def sketch_model(self, run: Run) -> Loaded | None:
        """The model without its weights, on the meta device, to be counted before anything but its config is read.

        `adapt` is then asked to put its adapters on it. `processor` is None.
        """

    @_hook(Kind.ALL)
    def export_size(self, run: Run, parameters: int) -> int | None:
        """Bytes that `export` writes of a base model of so many parameters, what it writes on the way among them.

        Asked by `ftcore plan`, before the weights are read, and before `export`, which needs as much room on the disk.
        """

    @_hook(Kind.EXACTLY_ONE)
    def load_model(  # type: ignore[empty-body]
        self, run: Run, processor: Any, quantization: Quantization | None
    ) -> Loaded:
        """Read the model's weights. Wrap this hook for what must surround it, such as an init context."""

    @_hook(Kind.AT_MOST_ONE)
    def adapt(self, run: Run, loaded: Loaded) -> Loaded | None:
        """Put trainable adapters on the model. Without an answer, all weights are trained."""

    @_hook(Kind.ALL)
    def training_args(self, run: Run) -> Mapping[str, Any] | None:
        """Arguments for the trainer, in its own words; two plugins that disagree on one are an error."""

    @_hook(Kind.EXACTLY_ONE)
    def make_trainer(  # type: ignore[empty-body]
        self, run: Run, loaded: Loaded, data: PreparedData, args: Mapping[str, Any]
    ) -> Trainer:
        """Build the trainer. `args` are the merged answers of `training_args`."""

    @_hook(Kind.ALL)
    def track(self, run: Run, settings: Mapping[str, Any], sent: int) -> Tracker | None:
        """Send what the run writes down to somewhere else, such as a server. Asked in a process of its own.

        `settings` is the resolved profile, as nested tables. `sent` is the last step that an earlier process of the
        same run has sent points of, 0 if there was none: then go on with what is there.
        """

    @_hook(Kind.OBSERVERS)
    def on_step(self, run: Run, step: Step) -> StopRequest | Notice | Sequence[StopRequest | Notice] | None:
        """An optimizer step has ended. Return a request to stop, something to tell the user, several, or nothing."""

    @_hook(Kind.OBSERVERS)
    def on_evaluation(
        self, run: Run, step: int, metrics: Mapping[str, float]
    ) -> StopRequest | Notice | Sequence[StopRequest | Notice] | None:
        """The model was evaluated on the held-out rows after `step`, as `train.eval_steps` says. Answer as `on_step`.

        `metrics` holds `eval_loss`, `eval_perplexity`, and what `score` answered as `eval_NAME`.
        """

    @_hook(Kind.AT_MOST_ONE)
    def score(self, run: Run, predictions: Sequence[Prediction]) -> Mapping[str, float] | None:
        """Task metrics of answers to held-out rows: higher is better, names are stable."""

    @_hook(Kind.AT_MOST_ONE)
    def write_reference(self, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
        """Write down, in `folder`, how the tuned model answers, so that artifacts can be compared with it without it.

        `data` is None where a folder with a model is the reference, and not a run.
        """

    @_hook(Kind.ALL)
    def export(
        self, run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path
    ) -> Artifact | Iterable[Artifact] | None:
        """Write artifacts below the folder `exports`, each whole or not at all. A generator's are proved one by one.

        `saved` is the folder with the adapter, or with the whole model if there is no adapter. What exporters share
        lies in `exports / ".work"`, which is removed when the last one has ended.
        """

    @_hook(Kind.ALL)
    def verify(self, run: Run, artifact: Artifact, reference: Path) -> Proof | None:
        """Load an artifact in its own runtime and compare it with the reference; None for another kind of artifact.

        `artifact.kind` is empty where a file or folder is to be proved that this run did not write; then its looks
        decide.
        """

    @_hook(Kind.ALL)
    def publish(self, run: Run, artifacts: Sequence[Artifact], saved: Path) -> str | None:
        """Send what was proved to somewhere else, and say where: an address. Not asked when a proof has failed."""

    @_hook(Kind.OBSERVERS)
    def run_ended(self, run: Run, outcome: Outcome) -> None:
        """The run is over: finished, stopped or failed. Always called, once."""


def hook_kinds() -> dict[str, Kind]:
    """Every hook's name and kind, in calling order."""
    return {name: function.kind for name, function in vars(Hooks).items() if hasattr(function, "kind")}
