"""Changes of a profile that bring another adapter, another way to share a model, or another machine."""

from __future__ import annotations

import contextlib
import gc
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.discovery import discover
from ftcore.engine import planned
from ftcore.errors import FtcoreError, ProfileError
from ftcore.hardware import find_hardware_profile, hardware_profiles
from ftcore.planning.advice import Change
from ftcore.planning.facts import ModelFacts
from ftcore.planning.plan import Plan, Sketch, make_plan, quantization_of, sketch_run
from ftcore.planning.rows import Said
from ftcore.planning.setting import RowShape
from ftcore.plugins import Active, Plugins, build_plugins, implemented_hooks
from ftcore.preflight import LoadedProfile, load_profile

OF_THE_MACHINE = ("device", "card", "memory", "tflops")
"""Keys of `[hardware]` that a plan for another machine takes from it, whatever the profile says."""

LEAST_RANK = 4


@attrs.frozen(kw_only=True)
class Source:
    """A profile's file, and what the command line lays over it; for `ways` see `known_ways`."""

    path: Path
    sets: tuple[str, ...] = ()
    switch_on: tuple[str, ...] = ()
    switch_off: tuple[str, ...] = ()
    ways: tuple[str, ...] | None = None

    def load(self, *sets: str, on: Sequence[str] = (), off: Sequence[str] = ()) -> LoadedProfile:
        """The profile with more laid over it. Raises `ProfileError`."""
        return load_profile(
            self.path,
            sets=[*self.sets, *sets],
            switch_on=[name for name in (*self.switch_on, *on) if name not in off],
            switch_off=[*self.switch_off, *(name for name in off if name not in self.switch_on)],
        )

    def on_machine(self, name: str) -> Source:
        """For the machine of a hardware profile. Raises `ProfileError` when there is none of that name."""
        found = find_hardware_profile(name, Path.cwd())
        if isinstance(found, str):
            raise ProfileError(f"--on {name}: {found}")
        path = str(found.absolute()) if name.endswith(".toml") else name
        table = _tables(found).get("hardware", {})
        keys = (f"hardware.{key}={_toml(table[key])}" for key in OF_THE_MACHINE if key in table)
        names = _toml([*(self.known_ways().ways or ()), path])
        return attrs.evolve(self, sets=(*self.sets, f"hardware.profile={names}", *keys))

    def known_ways(self) -> Source:
        """With the hardware profiles of this profile that say how devices share a model: they hold on any machine."""
        if self.ways is not None:
            return self
        named = self.load().profile.hardware.profile
        files = [find_hardware_profile(name, self.path.absolute().parent) for name in _listed(named)]
        ways = tuple(str(file) for file in files if isinstance(file, Path) and "plugin" in _tables(file))
        return attrs.evolve(self, ways=ways)


def machines() -> list[str]:
    """Hardware profiles that say how much memory their card has."""
    return [name for name, path in hardware_profiles().items() if "memory" in _tables(path).get("hardware", {})]


def plugins_of(loaded: LoadedProfile, report: Callable[[str], None]) -> Plugins:
    """The plugins of a profile, without their own checks: a plan needs no weights, data or converters.

    Raises `ProfileError` when two fill one slot, or none does.
    """
    plugins, conflicts = build_plugins(loaded.active, report=report)
    if conflicts:
        raise ProfileError(loaded.source.locate(problem) for problem in conflicts)
    return plugins


def sketch_of(loaded: LoadedProfile, report: Callable[[str], None]) -> Sketch:
    """What the plugins of a profile say of its run."""
    with _uncollected():
        return sketch_run(plugins_of(loaded, report), planned(loaded))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A fifth of the time would go into looking for garbage among what heavy imports make, which is none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def other_plugins(
    source: Source, loaded: LoadedProfile, plan: Plan, known: Sketch, report: Callable[[str], None]
) -> Iterator[Change]:
    """A quantizer in the place of the adapter, an adapter in the place of full training, a smaller adapter, shards."""
    adapters = [plugin for plugin in loaded.active if "adapt" in implemented_hooks(plugin.cls)]
    if not any("quantize" in implemented_hooks(plugin.cls) for plugin in loaded.active):
        yield from _replaced(source, loaded, adapters, known, report)
    for plugin in adapters:
        rank = getattr(plugin.config, "r", None)
        if isinstance(rank, int) and rank >= 8:  # noqa: PLR2004
            settings, cost = f"plugin.{plugin.source.name}.r = {rank // 2}", "the adapter can learn less"
            smaller = attrs.evolve(known, facts=with_rank(known.facts, rank, rank // 2))
            yield _to(smaller, settings, cost, LEAST_RANK + 1)
    if plan.setting.sharding.parts > 1 and not plan.setting.sharding.weights:
        yield from _shards(source, loaded, report)


def with_rank(facts: ModelFacts, rank: int, smaller: int) -> ModelFacts:
    """The facts with adapters of another rank: each has one row and one column less for each rank less."""
    less = {
        layer.name: (rank - smaller) * (layer.inputs + layer.outputs) for layer in facts.layers if layer.rank == rank
    }
    layers = tuple(
        attrs.evolve(layer, rank=smaller, adapter=layer.adapter - less[layer.name]) if layer.name in less else layer
        for layer in facts.layers
    )
    gone = sum(less.values())
    return attrs.evolve(facts, layers=layers, added=facts.added - gone, trained=facts.trained - gone)


def _replaced(
    source: Source, loaded: LoadedProfile, adapters: Sequence[Active], known: Sketch, report: Callable[[str], None]
) -> Iterator[Change]:
    for name, hooks, cls in _others(loaded):
        small = "quantize" in hooks
        if "adapt" not in hooks or (adapters and not small):
            continue
        off, sets = [plugin.source.name for plugin in adapters], _carried(adapters, name, cls)
        words = f"[plugin.{name}] in the place of {f'[plugin.{off[0]}]' if off else 'training all weights'}"
        cost = "quantized weights are a little less exact" if small else "an adapter is trained, not the model"
        # An adapter with the same options is on the same layers, and need not be drawn again.
        drawn = known if adapters and all(_covers(cls, plugin) for plugin in adapters) else None
        yield from _loaded(source, words, cost, LEAST_RANK, report, sets=sets, on=[name], off=off, drawn=drawn)


def _covers(cls: type[Any], plugin: Active) -> bool:
    """Whether a plugin has all of another one's options."""
    return {field.name for field in attrs.fields(type(plugin.config))} <= _options(cls)


def _options(cls: type[Any]) -> set[str]:
    return {field.name for field in attrs.fields(cls.Config)} if hasattr(cls, "Config") else set()


def other_machine(
    source: Source, said: Said, known: Sketch, above: float, rows: RowShape | None = None
) -> tuple[str, Plan] | None:
    """The hardware profile with the least memory over `above` bytes that the run fits on as it is."""
    source = source.known_ways()
    plans = [(name, on_machine(source, name, said, known, rows)) for name in machines()]
    fitting = [(name, plan) for name, plan in plans if plan.fits and (plan.budget.memory or 0) > above]
    return min(fitting, key=lambda found: found[1].budget.memory or 0, default=None)


def on_machine(source: Source, name: str, said: Said, known: Sketch, rows: RowShape | None = None) -> Plan:
    """The plan for the machine of a hardware profile, with a model that is sketched already."""
    return make_plan(source.on_machine(name).load().profile, known, rows, said)


def _shards(source: Source, loaded: LoadedProfile, report: Callable[[str], None]) -> Iterator[Change]:
    for name, hooks, _ in _others(loaded):
        if "training_args" not in hooks or "make_trainer" in hooks:
            continue
        words, cost = f"[plugin.{name}]", "more talk between the devices"
        yield from _loaded(source, words, cost, LEAST_RANK, report, on=[name], wanted=_is_shared)


def _is_shared(known: Sketch) -> bool:
    return bool(known.arguments.get("deepspeed") or known.arguments.get("fsdp"))


def _loaded(
    source: Source,
    words: str,
    cost: str,
    rank: int,
    report: Callable[[str], None],
    *,
    sets: Sequence[str] = (),
    on: Sequence[str] = (),
    off: Sequence[str] = (),
    drawn: Sketch | None = None,
    wanted: Callable[[Sketch], bool] = bool,
) -> list[Change]:
    """A change that is made by reading the profile again; none where plugins do not go together."""
    try:
        changed = source.load(*sets, on=on, off=off)
        if drawn is None:
            known = sketch_of(changed, report)
        else:
            quantization = quantization_of(plugins_of(changed, report), planned(changed))
            known = attrs.evolve(drawn, quantization=quantization)
    except FtcoreError:
        return []
    return [_to(known, words, cost, rank)] if wanted(known) else []


def _to(known: Sketch, words: str, cost: str, rank: int) -> Change:
    return Change(settings=words, cost=cost, rank=rank, apply=lambda profile, _: (profile, known), sketched=True)


def _others(loaded: LoadedProfile) -> Iterator[tuple[str, list[str], type[Any]]]:
    """Installed plugins that are off, and the hooks that they implement."""
    installed, on = discover(), {plugin.source.name for plugin in loaded.active}
    for name in installed.names:
        if name in on:
            continue
        try:
            cls = installed.find(name).load()
        except FtcoreError:  # a broken plugin that this profile does not use
            continue
        yield name, implemented_hooks(cls), cls


def _carried(adapters: Sequence[Active], name: str, cls: type[Any]) -> list[str]:
    """Options that the new plugin has in common with the one that goes, such as the rank."""
    known = _options(cls)
    return [
        f"plugin.{name}.{field.name}={_toml(getattr(plugin.config, field.name))}"
        for plugin in adapters
        for field in attrs.fields(type(plugin.config))
        if field.name in known and getattr(plugin.config, field.name) not in (None, field.default)
    ]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _listed(named: str | Sequence[str]) -> Sequence[str]:
    return [named] if isinstance(named, str) else named


def _tables(path: Path) -> Mapping[str, Any]:
    """A hardware profile as it is written; nothing for one that cannot be read, which is told when it is used."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
