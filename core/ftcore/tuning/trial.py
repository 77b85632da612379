"""One try, in a process of its own: the real model takes a few steps on the longest rows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.assembly import build_plugins
from ftcore.data.prepare import Prepared, clean, prepare
from ftcore.errors import FtcoreError, OutOfMemoryError
from ftcore.files import write_json
from ftcore.hardware.usage import process_peak
from ftcore.hookspecs import Kind, hook_kinds
from ftcore.plugins import Active, Plugins, implemented_hooks
from ftcore.preflight import load_profile
from ftcore.processes.placement import is_several, with_processes
from ftcore.processes.ranks import Ranks
from ftcore.processes.world import worker_world
from ftcore.runs import PROFILE
from ftcore.values import Decision, Example, PreparedData, Run, Step, World

RESULTS = "results"
"""In the folder of the try: how it ended, a file for each process."""

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What allocators say, and the trainer when it goes on with smaller parts."""

LEFT_OUT = {name for name, kind in hook_kinds().items() if kind is Kind.OBSERVERS} | {"check", "score", "export"}


def work(folder: Path, *, only_prepare: bool = False, as_rank: bool = False) -> None:
    """Do what the profile in `folder` says, up to training, and write how it ended.

    With `as_rank` this is one of the processes that another call has started.
    """
    world = worker_world() if as_rank else World()
    try:
        result = _tried(folder, world, only_prepare=only_prepare)
    except BaseException as error:
        if not is_out_of_memory(error):
            reason = str(error) if isinstance(error, FtcoreError) else f"{type(error).__name__}: {error}"
            _write(folder, world, {"state": "failed", "reason": reason})
            raise
        _write(folder, world, {"state": "out of memory"})
        if world.size > 1:  # the others wait for this one, until the launcher sees it end
            raise
    else:
        if result is not None:
            _write(folder, world, result)


def _write(folder: Path, world: World, result: Mapping[str, Any]) -> None:
    place = folder / RESULTS
    place.mkdir(exist_ok=True)
    write_json(place / f"{world.rank if world.size > 1 else 'launcher'}.json", result)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed: here, or in what the error comes from."""
    while error is not None:
        if isinstance(error, MemoryError | OutOfMemoryError) or any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _tried(folder: Path, world: World, *, only_prepare: bool) -> Mapping[str, Any] | None:
    """How it went; None where other processes tell."""
    loaded = load_profile(folder / PROFILE, resolved=True)
    run = Run(name=loaded.run_name, folder=folder, profile=loaded.profile, world=world)
    plugins, _ = build_plugins([plugin for plugin in loaded.active if _works(plugin)], report=_unheard)
    if is_several(run) and not only_prepare:
        command = [sys.executable, "-m", "ftcore.cli", "trial", str(folder), "--rank"]
        code = plugins.launch(with_processes(run), command)
        if code is not None:
            return None
    try:
        prepared = Ranks(plugins, run).first_here_first(lambda: prepare(plugins, run, lambda _: None))
        if only_prepare:
            return {"state": "prepared", "rows": len(prepared.data.train), "longest": max(prepared.data.lengths)}
        return _trained(plugins, run, prepared)
    finally:
        clean(run)


def _trained(plugins: Plugins, run: Run, prepared: Prepared) -> Mapping[str, Any]:
    with _told_of_smaller_parts() as told:
        loaded = plugins.load_model(run, prepared.processor, plugins.quantize(run))
        loaded = plugins.adapt(run, loaded)
        data = longest_rows(prepared.data, run)
        trainer = plugins.make_trainer(run, loaded, data, plugins.training_args(run))
        control = _Control(run.folder, told)
        trainer.train(control, None)
    return {"state": "fits", **control.figures()}


def longest_rows(data: PreparedData, run: Run) -> PreparedData:
    """What asks for the most memory: the longest row in every place, or where rows are packed, full sequences.

    There are as many as the steps of `run` take, and no held-out ones.
    """
    train = run.profile.train
    wanted = train.batch_size * (train.max_steps or 1)
    lengths = data.lengths
    if train.packing:  # each sequence is at least half full, or it would have been laid into another
        times = -(-2 * wanted * train.max_length // sum(lengths))
        places = [*range(len(lengths))] * times
    else:
        places = [max(range(len(lengths)), key=lengths.__getitem__)] * wanted
    rows = _Repeated(data.train, places)
    return attrs.evolve(data, train=rows, lengths=[lengths[place] for place in places], validation=())


class _Repeated(Sequence[Example]):
    """Rows of another sequence, some of them again and again."""

    def __init__(self, rows: Sequence[Example], places: Sequence[int]) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Repeated(self._rows, self._places[index])
        return self._rows[self._places[index]]


class _Control:
    """Implements `ftcore.api.Control`: notes what steps take; nothing is saved or evaluated."""

    def __init__(self, folder: Path, told: Sequence[str]) -> None:
        self._folder, self._told = folder, told
        self._steps: list[Mapping[str, float]] = []

    def step_ended(self, step: Step) -> Decision:
        """Raises `OutOfMemoryError` when the trainer had to take the step in smaller parts."""
        if self._told:
            raise OutOfMemoryError(self._told[0])
        self._steps.append(step.metrics)
        return Decision()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:  # noqa: ARG002
        """Nothing is."""
        return Decision()

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """A folder that goes with the try's."""
        folder = self._folder / f"step-{step}"
        folder.mkdir(exist_ok=True)
        yield folder

    def figures(self) -> Mapping[str, Any]:
        """`memory` at its peak, and trained tokens a second; the first step, which warms up, does not count."""
        counted = [step for step in self._steps[1:] or self._steps if step.get("tokens_per_second", 0) > 0]
        tokens = sum(step.get("tokens", 1.0) for step in counted)
        seconds = sum(step.get("tokens", 1.0) / step["tokens_per_second"] for step in counted)
        memory = max((step["memory"] for step in self._steps if "memory" in step), default=process_peak())
        return {"memory": memory, "tokens_per_second": tokens / seconds if seconds else None}


@contextmanager
def _told_of_smaller_parts() -> Iterator[list[str]]:
    """What plugins log about memory meanwhile. A trainer that goes on in smaller parts says so, and goes on."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if any(sign in text for sign in SIGNS):
                told.append(text)

    listener, logger = Listener(level=logging.WARNING), logging.getLogger("ftcore")
    logger.addHandler(listener)
    try:
        yield told
    finally:
        logger.removeHandler(listener)


def _works(plugin: Active) -> bool:
    """Whether the plugin has a part in the training itself, rather than watching or shipping it."""
    return not LEFT_OUT.issuperset(implemented_hooks(plugin.cls))


def _unheard(_: str) -> None:
    """No observer is on."""
