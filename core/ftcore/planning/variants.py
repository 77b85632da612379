"""Changes of a profile that bring another adapter, another way to share a model, or another machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from ftcore.discovery import discover
from ftcore.errors import FtcoreError
from ftcore.hardware.usage import GIB
from ftcore.options import toml_value
from ftcore.planning.advice import Change
from ftcore.planning.facts import ModelFacts
from ftcore.planning.plan import Plan, Sketch, make_plan
from ftcore.planning.rows import Said
from ftcore.planning.setting import RowShape
from ftcore.planning.source import Source, anywhere, machines, plugins_of, sketch_of
from ftcore.plugins import Active, implemented_hooks
from ftcore.preflight import LoadedProfile

LEAST_RANK = 4


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
        if "adapt" not in hooks or (adapters and not small) or (small and known.facts.saved):
            continue
        off, sets = [plugin.source.name for plugin in adapters], _carried(adapters, name, cls)
        words = f"[plugin.{name}] in the place of {f'[plugin.{off[0]}]' if off else 'training all weights'}"
        cost = "quantized weights are a little less exact" if small else "an adapter is trained, not the model"
        # An adapter with the same options is on the same layers, and need not be drawn again.
        drawn = known if adapters and all(_covers(cls, plugin) for plugin in adapters) else None
        made = _switched(source, report, on=name, off=off, sets=sets, drawn=drawn)
        if made is not None:
            yield _to(made, words, cost, LEAST_RANK)


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
    for name, size in machines().items():
        if size * GIB > above:
            with contextlib.suppress(FtcoreError):  # an own hardware profile that is broken
                plan = on_machine(source, name, said, known, rows)
                if plan.fits:
                    return name, plan
    return None


def on_machines(
    source: Source,
    said: Said,
    known: Sketch,
    rows: RowShape | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Plan]:
    """The plans for every hardware profile that names its memory; of one that cannot be used, `report` is told."""
    source, plans = source.known_ways(), {}
    for name in machines():
        try:
            plans[name] = on_machine(source, name, said, known, rows)
        except FtcoreError as error:
            report(f"{name} is left out: {error}")
    return plans


def on_machine(source: Source, name: str, said: Said, known: Sketch, rows: RowShape | None = None) -> Plan:
    """The plan for the machine of a hardware profile, with a model that is sketched already."""
    return make_plan(source.on_machine(name).load().profile, known, rows, said)


def _shards(source: Source, loaded: LoadedProfile, report: Callable[[str], None]) -> Iterator[Change]:
    for name, hooks, _ in _others(loaded):
        if "training_args" not in hooks or "make_trainer" in hooks:
            continue
        made = _switched(source, report, on=name)
        if made is not None and (made.arguments.get("deepspeed") or made.arguments.get("fsdp")):
            yield _to(made, f"[plugin.{name}]", "more talk between the devices", LEAST_RANK)


def _switched(
    source: Source,
    report: Callable[[str], None],
    *,
    on: str,
    off: Sequence[str] = (),
    sets: Sequence[str] = (),
    drawn: Sketch | None = None,
) -> Sketch | None:
    """The run with other plugins; with `drawn`, its model as it is there. None where they do not go together."""
    try:
        changed = source.load(*sets, on=[on], off=off)
        if drawn is None:
            return sketch_of(changed, report)
        quantization = plugins_of(changed, report).quantize(anywhere(changed))
    except FtcoreError:
        return None
    return attrs.evolve(drawn, quantization=quantization)


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
        f"plugin.{name}.{field.name}={toml_value(getattr(plugin.config, field.name))}"
        for plugin in adapters
        for field in attrs.fields(type(plugin.config))
        if field.name in known and getattr(plugin.config, field.name) not in (None, field.default)
    ]
