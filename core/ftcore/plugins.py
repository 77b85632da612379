"""The active plugins of one run, behind a typed method for each hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import pluggy

from ftcore.discovery import Source
from ftcore.errors import PluginError, Problem
from ftcore.hookspecs import PROJECT, hook_kinds
from ftcore.values import (
    Artifact,
    Format,
    Loaded,
    Notice,
    Outcome,
    Part,
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
    Verdict,
)

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Active:
    """A plugin that is on in this run. A fallback is on without a table, and yields its slots."""

    source: Source
    cls: type[Any]
    config: Any
    fallback: bool = False


def implemented_hooks(cls: type[Any]) -> list[str]:
    """The hooks that a plugin class implements, in calling order."""
    marked = {name for name in dir(cls) if hasattr(getattr(cls, name, None), f"{PROJECT}_impl")}
    return [name for name in hook_kinds() if name in marked]


def _told(answers: Iterable[Any]) -> Iterator[StopRequest | Notice]:
    for answer in answers:
        yield from answer if isinstance(answer, Sequence) else [answer]


class Plugins:
    """One run's plugins. Every method calls one hook; data hooks propagate, observers are isolated."""

    def __init__(self, manager: pluggy.PluginManager, active: Sequence[Active] = (), *, asked: str = "") -> None:
        self._manager = manager
        self._hook = manager.hook
        self._active = {plugin.source.name: plugin for plugin in active}
        self._asked = asked

    def alone(self, name: str) -> Plugins:
        """The same plugins, of which only `name` is asked where all of them would be."""
        return Plugins(self._manager, [*self._active.values()], asked=name)

    def check(self, run: Run) -> list[Problem]:
        """Every problem that any plugin finds."""
        return [problem for _, found in self._each("check", run=run) for problem in found]

    def launch(self, run: Run, command: Sequence[str]) -> int | None:
        """The exit code of the workers, or None to go on in this process."""
        code: int | None = self._hook.launch(run=run, command=command)
        return code

    def share(self, run: Run, value: str | None) -> str:
        """What the main process says. Raises `PluginError` when no plugin connects the processes."""
        answer = self._hook.share(run=run, value=value)
        if isinstance(answer, str):
            return answer
        raise self._wrong("share", "str", answer)

    def run_started(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Tell the observers."""
        self._hook.run_started(run=run, settings=settings)

    def load_rows(self, run: Run) -> RowSource:
        """The raw rows."""
        rows: RowSource | Sequence[Row] = self._answered("load_rows", self._hook.load_rows(run=run))
        if isinstance(rows, RowSource):
            return rows
        if not isinstance(rows, Sequence):
            raise self._wrong("load_rows", "RowSource or a sequence of rows", rows)
        return RowSource(parts=(Part(rows=rows),))

    def load_processor(self, run: Run, rows: Rows) -> Any:
        """The tokenizer or processor."""
        return self._answered("load_processor", self._hook.load_processor(run=run, rows=rows))

    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> Format:
        """How a row becomes tokens."""
        answer = self._hook.format_dataset(run=run, rows=rows, processor=processor)
        return self._expect("format_dataset", answer, Format)

    def quantize(self, run: Run) -> Quantization | None:
        """Options to read the weights with."""
        answer = self._hook.quantize(run=run)
        return None if answer is None else self._expect("quantize", answer, Quantization)

    def sketch_model(self, run: Run) -> Loaded | None:
        """The model on the meta device, or None when no plugin draws it."""
        answer = self._hook.sketch_model(run=run)
        return None if answer is None else self._expect("sketch_model", answer, Loaded)

    def export_size(self, run: Run, parameters: int) -> Mapping[str, int]:
        """Bytes that exporters write, by the names of those that say so."""
        answers = self._each("export_size", run=run, parameters=parameters)
        return {name: self._expect("export_size", size, int, by=name) for name, size in answers}

    def load_model(self, run: Run, processor: Any, quantization: Quantization | None) -> Loaded:
        """The model."""
        loaded = self._hook.load_model(run=run, processor=processor, quantization=quantization)
        return self._expect("load_model", loaded, Loaded)

    def adapt(self, run: Run, loaded: Loaded) -> Loaded:
        """The model with its trainable adapters, or as it was."""
        answer = self._hook.adapt(run=run, loaded=loaded)
        return loaded if answer is None else self._expect("adapt", answer, Loaded)

    def training_args(self, run: Run) -> Mapping[str, Any]:
        """The merged arguments. Raises `PluginError` naming two plugins that disagree."""
        merged: dict[str, Any] = {}
        said_by: dict[str, str] = {}
        for name, arguments in self._each("training_args", run=run):
            for key, value in arguments.items():
                if key in merged and merged[key] != value:
                    raise PluginError(
                        f"training argument {key}: {said_by[key]} says {merged[key]!r} and {name} says {value!r};"
                        " switch one of them off"
                    )
                merged[key], said_by[key] = value, name
        return merged

    def make_trainer(self, run: Run, loaded: Loaded, data: PreparedData, args: Mapping[str, Any]) -> Trainer:
        """The trainer."""
        trainer: Trainer = self._hook.make_trainer(run=run, loaded=loaded, data=data, args=args)
        if callable(getattr(self._answered("make_trainer", trainer), "train", None)):
            return trainer
        raise self._wrong("make_trainer", "Trainer", trainer)

    def track(self, run: Run, settings: Mapping[str, Any], sent: int) -> Tracker:
        """The tracker of the one plugin that is asked, see `alone`."""
        answers = [answer for _, answer in self._each("track", run=run, settings=settings, sent=sent)]
        if len(answers) == 1 and callable(getattr(answers[0], "send", None)):
            return cast("Tracker", answers[0])
        raise self._wrong("track", "Tracker", answers[0] if answers else None, by=self._asked)

    def on_step(self, run: Run, step: Step) -> list[StopRequest | Notice]:
        """What the observers ask for, and tell."""
        return list(_told(self._hook.on_step(run=run, step=step)))

    def on_evaluation(self, run: Run, step: int, metrics: Mapping[str, float]) -> list[StopRequest | Notice]:
        """What the observers ask for, and tell."""
        return list(_told(self._hook.on_evaluation(run=run, step=step, metrics=metrics)))

    def score(self, run: Run, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Task metrics; empty without a plugin that scores."""
        scores = self._hook.score(run=run, predictions=predictions) or {}
        return self._numbers("score", scores)

    def write_reference(self, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
        """Have it written down how the tuned model answers."""
        self._hook.write_reference(run=run, loaded=loaded, data=data, folder=folder)

    def export(self, run: Run, loaded: Loaded, data: PreparedData, *, saved: Path, exports: Path) -> Iterator[Artifact]:
        """Every artifact, as it is written."""
        for name, answer in self._each("export", run=run, loaded=loaded, data=data, saved=saved, exports=exports):
            for artifact in [answer] if isinstance(answer, Artifact) else self._several("export", answer, by=name):
                proof = self._proof("export", self._expect("export", artifact, Artifact, by=name).proof, by=name)
                yield attrs.evolve(artifact, proof=proof)

    def verify(self, run: Run, artifact: Artifact, reference: Path) -> Proof | None:
        """The proof of the first plugin that knows this kind of artifact, or None."""
        answers = self._each("verify", run=run, artifact=artifact, reference=reference)
        return next((self._proof("verify", proof, by=name) for name, proof in answers), None)

    def publish(self, run: Run, artifacts: Sequence[Artifact], saved: Path) -> Iterator[str]:
        """Every place that something was sent to."""
        for name, place in self._each("publish", run=run, artifacts=artifacts, saved=saved):
            yield self._expect("publish", place, str, by=name)

    def run_ended(self, run: Run, outcome: Outcome) -> None:
        """Tell the observers, also those that were left out."""
        self._hook.run_ended(run=run, outcome=outcome)

    def implementers(self, hook: str) -> list[str]:
        """Names of the plugins that implement `hook`, first called first."""
        return [impl.plugin_name for impl in reversed(getattr(self._hook, hook).get_hookimpls())]

    def active(self, hook: str) -> list[Active]:
        """The plugins that implement `hook`, with their options."""
        return [self._active[name] for name in self.implementers(hook)]

    def _each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """One plugin's answer at a time, in profile order, with the plugin's name."""
        for name in [name for name in self.implementers(hook) if self._asked in ("", name)]:
            others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name and plugin]
            for answer in self._manager.subset_hook_caller(hook, others)(**arguments):
                yield name, answer

    def _several(self, hook: str, answer: Any, *, by: str) -> Iterable[Any]:
        if isinstance(answer, Iterable) and not isinstance(answer, str | Mapping):
            return answer
        raise self._wrong(hook, "Artifact or several of them", answer, by=by)

    def _proof(self, hook: str, proof: Any, *, by: str) -> Proof:
        found = self._expect(hook, proof, Proof, by=by)
        self._expect(hook, found.verdict, Verdict, by=by)
        return attrs.evolve(found, figures=self._numbers(hook, found.figures, by=by))

    def _numbers(self, hook: str, figures: Mapping[str, Any], *, by: str = "") -> dict[str, float]:
        """Plain numbers, which JSON can hold; a numpy or torch scalar is turned into one."""
        try:
            return {str(name): float(value) for name, value in figures.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise PluginError(f"{hook}: {by or self._names(hook)} must answer numbers: {error}") from error

    def _answered(self, hook: str, answer: T | None) -> T:
        if answer is None:
            raise PluginError(f"{hook}: {self._names(hook)} answered nothing; it must return a value")
        return answer

    def _expect(self, hook: str, answer: Any, cls: type[T], *, by: str = "") -> T:
        if isinstance(answer, cls):
            return answer
        raise self._wrong(hook, cls.__name__, answer, by=by)

    def _wrong(self, hook: str, wanted: str, answer: Any, *, by: str = "") -> PluginError:
        """`by` is the plugin that answered; without it, all that may have."""
        return PluginError(f"{hook}: {by or self._names(hook)} must return {wanted}, got {type(answer).__name__}")

    def _names(self, hook: str) -> str:
        return ", ".join(self.implementers(hook))
