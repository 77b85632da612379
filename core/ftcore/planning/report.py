"""A plan for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.hardware import cards, recommended_profile
from ftcore.hardware.usage import GIB
from ftcore.planning.advice import Advice
from ftcore.planning.memory import Memory
from ftcore.planning.plan import Plan
from ftcore.planning.speed import TERA
from ftcore.values import SavedAs

WORDS: Mapping[str, str] = {
    "weights": "weights",
    "quantized": "quantized weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "copies": "copies in the arithmetic's type",
    "activations": "activations",
    "logits": "logits",
    "buckets": "buffers for sending gradients",
    "context": "the libraries' own",
    "slack": "gaps of the allocator",
}
SHOWN = 6
LINE = 80
DAYS_FROM = 48
"""Hours from which a duration is told in days."""


def plan_as_json(plan: Plan, advice: Sequence[Advice] = ()) -> dict[str, Any]:
    """Plain values; sizes in bytes, or in GiB where the name says so."""
    facts, setting, budget = plan.facts, plan.setting, plan.budget
    known = None if budget.memory is None else budget.memory / GIB
    return {
        "fits": plan.fits,
        "tight": plan.is_tight,
        "device": {"kind": budget.device, "name": budget.name, "memory_gib": known, "tflops": budget.tflops},
        "hardware_profiles": profile_names(plan),
        "precision": plan.precision,
        "saved": None if facts.saved is None else attrs.asdict(facts.saved, filter=attrs.filters.exclude("left_out")),
        "parameters": {"total": facts.total, "trainable": facts.trained, "base": facts.base, "adapter": facts.added},
        "memory": memory_as_json(plan.memory),
        "batch": {
            "micro_batch_size": setting.micro,
            "accumulation": setting.accumulation,
            "processes": setting.sharding.parts,
            "sharding": setting.sharding.name,
        },
        "rows": {**attrs.asdict(setting.rows), "assumed": list(plan.assumed)},
        "speed": {**attrs.asdict(plan.speed), "flops_per_row": plan.speed.operations},
        "disk": {**attrs.asdict(plan.storage), "total": plan.storage.total},
        "advice": [
            {"change": one.settings, "cost": one.cost, "fits": one.fits, "peak_gib": one.peak / GIB}
            | {"saves_gib": one.saves / GIB, "slower": one.slower}
            for one in advice
        ],
    }


def memory_as_json(memory: Memory) -> dict[str, Any]:
    """GiB. `torch_gib` is what torch's allocator holds at most: without the context of the driver."""
    return {
        "peak_gib": memory.peak / GIB,
        "torch_gib": (memory.peak - memory.context) / GIB,
        "tensors_gib": memory.tensors / GIB,
        "host_gib": memory.host / GIB,
        "parts": {name: getattr(memory, name) / GIB for name in WORDS},
    }


def plan_lines(
    plan: Plan, advice: Sequence[Advice] = (), elsewhere: str = "", counting: Sequence[str] = ()
) -> Iterator[str]:
    """The plan, line by line; `counting` says how to count the rows, where that may be enough."""
    yield verdict(plan)
    yield ""
    yield from _model_lines(plan)
    yield ""
    yield from _memory_lines(plan.memory)
    yield ""
    yield from _time_lines(plan)
    yield from _disk_lines(plan)
    if plan.assumed:
        yield ""
        yield "assumed, for want of better (--prepare counts the rows):"
        for text in plan.assumed:
            yield from _wrapped(text)
    if plan.fits is False:
        yield ""
        yield from counting
        yield from _advice_lines(advice, elsewhere)


def verdict(plan: Plan) -> str:
    """One sentence."""
    peak, budget = f"{plan.memory.peak / GIB:.1f} GiB", plan.budget
    if budget.memory is not None and plan.is_bound and not plan.fits:
        return f"may not fit: at most {peak}, and {budget.name} has {budget.memory / GIB:.1f} GiB; see what is assumed"
    if budget.memory is None:
        return f"needs {peak} on {budget.name}; set hardware.memory to see whether it fits"
    there = f"{budget.memory / GIB:.1f} GiB of {budget.name}"
    if not plan.fits:
        return f"does not fit: {peak}, more than the {there}"
    tight = "; a plan may be wrong by more than what is left" if plan.is_tight else ""
    return f"fits: {peak} of the {there}{tight}"


def _model_lines(plan: Plan) -> Iterator[str]:
    facts, setting = plan.facts, plan.setting
    share = f"{facts.trained / facts.total:.2%}" if facts.total else ""
    yield f"model          {facts.base:,} parameters"
    if facts.saved is not None:
        yield f"               {_saved(facts.saved)}"
    adapter = f" (adapter {facts.adapter})" if facts.adapter else ""
    yield f"trained        {facts.trained:,} of {facts.total:,}, {share}{adapter}"
    rows, shared = setting.rows, f" x {setting.sharding.name}" if setting.sharding.parts > 1 else ""
    pictures = f" and {rows.images} picture{'s' if rows.images > 1 else ''}" if rows.images else ""
    yield f"batch          {setting.micro} x {setting.accumulation}{shared} rows"
    yield f"               of up to {rows.longest} tokens{pictures}, {rows.trained} of them trained"
    yield f"hardware       profile {', '.join(profile_names(plan))}: {setting.device}, {plan.precision}"
    if "auto" in plan.profiles and setting.device == "cuda" and not cards():
        yield "               made for this machine, without a GPU (--on NAME names another)"


def profile_names(plan: Plan) -> list[str]:
    """The hardware profiles that the plan counts with, and what `auto` stands for here."""
    return [f"{recommended_profile()} (auto)" if name == "auto" else name for name in plan.profiles]


def _saved(saved: SavedAs) -> str:
    known = "" if saved.is_unknown else ", and made whole as they are read" if saved.whole else ", and kept so"
    return f"its weights are saved quantized ({saved.kind}){known}"


def _memory_lines(memory: Memory) -> Iterator[str]:
    for name, words in WORDS.items():
        size = getattr(memory, name)
        if size:
            yield f"{words:<34} {_size(size):>12}"
    yield f"{'at the moment of most':<34} {_size(memory.peak):>12}"
    if memory.host:
        yield f"{'and in host memory':<34} {_size(memory.host):>12}"


def _time_lines(plan: Plan) -> Iterator[str]:
    speed = plan.speed
    if speed.tokens_per_second is None or speed.step_seconds is None:
        yield f"time           {speed.operations / TERA:.3g} tera-operations a row (hardware.tflops tells how long)"
        return
    yield f"time           about {speed.tokens_per_second:,.0f} tokens a second, {speed.step_seconds:.2g} s a step,"
    yield f"               at {speed.efficiency:.0%} of {plan.budget.tflops:g} tera-operations a second"
    if speed.hours is None:
        yield "               for as many steps as the rows make (--prepare counts them)"
    else:
        yield f"               {hours(speed.hours)} for {speed.steps:,} steps, without evaluations and exports"


def _disk_lines(plan: Plan) -> Iterator[str]:
    disk = plan.storage
    parts = f"checkpoints {_size(disk.checkpoints)}, result {_size(disk.result)}, exports {_size(disk.exports)}"
    yield f"disk           {_size(disk.total)} at most"
    yield f"               ({parts})"


def _advice_lines(advice: Sequence[Advice], elsewhere: str) -> Iterator[str]:
    fitting = [one for one in advice if one.fits]
    yield "what to change, cheapest first:" if fitting else "no single change is enough; what saves memory:"
    for one in (fitting or advice)[:SHOWN]:
        slower = f"; {one.slower - 1:.0%} slower" if one.slower > 1.005 else ""  # noqa: PLR2004
        cost = f"; {one.cost}" if one.cost else ""
        tight = ", which is tight" if one.tight else ""
        yield from _wrapped(
            f"{one.settings}: {one.peak / GIB:.1f} GiB{tight}, saves {one.saves / GIB:.1f}{slower}{cost}"
        )
    if elsewhere:
        yield from _wrapped(f"or {elsewhere}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, LINE, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def hours(value: float) -> str:
    """A duration for people."""
    if value >= DAYS_FROM:
        return f"{value / 24:,.1f} days"
    if value >= 1:
        return f"{value:.1f} hours"
    count, unit = (round(value * 60), "minute") if value * 60 >= 1 else (round(value * 3600), "second")
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def machine_row(name: str, plan: Plan) -> list[str]:
    """One line of the table of all hardware profiles."""
    known, speed = plan.budget.memory, plan.speed
    return [
        name,
        "?" if known is None else f"{known / GIB:.1f}",
        {True: "fits", False: "no", None: "?"}[plan.fits],
        f"{plan.memory.peak / GIB:.1f}",
        f"{plan.setting.micro} x {plan.setting.accumulation}",
        "?" if speed.tokens_per_second is None else f"{speed.tokens_per_second:,.0f}",
        "?" if speed.hours is None else hours(speed.hours),
    ]


MACHINE_COLUMNS = ["hardware profile", "GiB", "", "peak GiB", "batch", "tokens/s", "time"]


def _size(size: float) -> str:
    for unit, scale in (("GiB", GIB), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.1f} KiB" if size else "nothing"
