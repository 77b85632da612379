"""One plan: what a profile's run needs on one device, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ftcore.hardware import nvidia_memory_gib
from ftcore.planning.budget import Budget, budget_of
from ftcore.planning.facts import ModelFacts
from ftcore.planning.measure import sketch
from ftcore.planning.memory import Memory, memory
from ftcore.planning.rows import Said, bounded, steps_of
from ftcore.planning.setting import RowShape, Setting, precision_of, processes_of, setting_of
from ftcore.planning.speed import Speed, speed
from ftcore.planning.storage import Storage, storage
from ftcore.planning.towers import NotPlannedError
from ftcore.plugins import Plugins
from ftcore.values import Profile, Quantization, Run, SavedAs, World

TOLERANCE = 1.1
"""What is planned may turn out larger by this."""


@attrs.frozen(kw_only=True)
class Sketch:
    """What plugins say of a run before anything is loaded.

    `exports` are the bytes that each exporter writes; `processes` counts those that run already, if several do.
    """

    facts: ModelFacts
    quantization: Quantization | None
    arguments: Mapping[str, Any]
    exports: Mapping[str, int]
    processes: int | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """What a run needs. `fits` is None where the device's memory is not known, or what is needed.

    `profiles` are the hardware profiles that it counts with, as they are named. `assumed` says what is a guess rather
    than a count, in words for the user.
    """

    facts: ModelFacts
    setting: Setting
    budget: Budget
    memory: Memory
    speed: Speed
    storage: Storage
    precision: str
    profiles: tuple[str, ...]
    assumed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """Whether the most that is held is within the device's memory."""
        if self.budget.memory is None:
            return None
        within = self.memory.peak <= self.budget.memory
        return within or (None if self.is_bound else False)

    @property
    def is_bound(self) -> bool:
        """Whether it may need far less, since nobody knows how large the weights are that are saved quantized."""
        return self.facts.saved is not None and self.facts.saved.is_unknown

    @property
    def is_tight(self) -> bool:
        """Whether it fits by less than what a plan may be wrong by."""
        return bool(self.fits) and self.memory.peak * TOLERANCE > (self.budget.memory or 0.0)


def sketch_run(plugins: Plugins, run: Run) -> Sketch:
    """Ask the plugins. Raises `NotPlannedError` when none of them draws the model without its weights."""
    facts = sketch(plugins, run)
    if facts is None:
        loaders = ", ".join(plugins.implementers("load_model"))
        text = f"{loaders} cannot show a model without its weights (hook sketch_model), so nothing is planned"
        raise NotPlannedError(text)
    return Sketch(
        facts=facts,
        quantization=plugins.quantize(run) or _kept(facts.saved),
        arguments=_arguments(plugins, run),
        exports=plugins.export_size(run, facts.base),
        processes=run.world.size if run.world.size > 1 else None,
    )


def make_plan(profile: Profile, known: Sketch, rows: RowShape | None = None, said: Said | None = None) -> Plan:
    """The plan of a profile whose model is sketched already; only its core tables are read."""
    facts = known.facts
    rows = rows or bounded(profile, facts, said or Said())
    processes = known.processes or processes_of(profile)
    setting = setting_of(profile, rows, known.quantization, known.arguments, processes)
    budget, named = budget_of(profile), profile.hardware.profile
    return Plan(
        facts=facts,
        setting=setting,
        budget=budget,
        memory=memory(facts, setting),
        speed=speed(facts, setting, tflops=budget.tflops, steps=steps_of(profile, rows)),
        storage=storage(facts, setting, checkpoints=_checkpoints(profile), exports=sum(known.exports.values())),
        precision=precision_of(profile, setting.device),
        profiles=(named,) if isinstance(named, str) else named,
        assumed=(*rows.assumed, *_assumed_processes(profile, known), *_assumed_weights(facts)),
    )


def _kept(saved: SavedAs | None) -> Quantization | None:
    """Weights that are saved quantized and stay so, as if they were quantized as they are read."""
    if saved is None or saved.whole:
        return None
    return Quantization(name=saved.kind, options={}, bytes_per_weight=saved.bytes_per_weight, left_out=saved.left_out)


def _checkpoints(profile: Profile) -> int:
    """The newest checkpoints, and the best one if evaluations say which it is."""
    train = profile.train
    return train.save_limit + (1 if train.eval_steps else 0)


def _assumed_processes(profile: Profile, known: Sketch) -> list[str]:
    """`hardware.processes = 0` takes every GPU, and a plan may be made where there is none."""
    if known.processes or profile.hardware.processes or nvidia_memory_gib():
        return []
    return ["one process on a machine, since no GPU is here to count (--set hardware.processes=8 plans for eight)"]


def _assumed_weights(facts: ModelFacts) -> list[str]:
    saved = facts.saved
    if saved is None or not saved.is_unknown:
        return []
    return [f"weights that are as large as whole ones: how large saved ones are ({saved.kind}) is not known here"]


def _arguments(plugins: Plugins, run: Run) -> Mapping[str, Any]:
    """The trainer's arguments, which say how processes share a model."""
    size, machines = processes_of(run.profile), run.profile.hardware.machines
    world = World(size=size, local_size=max(1, size // machines), started_by="ftcore")
    return plugins.training_args(run if run.world.size > 1 else attrs.evolve(run, world=world))
