"""What to change first when a run does not fit: each change is planned, so its figures are what they would be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from ftcore.options import toml_value
from ftcore.planning.plan import Plan, Sketch, make_plan
from ftcore.planning.rows import Said
from ftcore.planning.setting import RowShape
from ftcore.values import Profile

SHORTEST = 256
"""Tokens under which `train.max_length` is not advised: rows of instructions are rarely shorter."""


@attrs.frozen(kw_only=True)
class Change:
    """One thing to do otherwise. `settings` is how a profile says it; `cost` is what it costs beside time.

    Changes of a lower `rank` cost less. `apply` gives the run as it would be. Of those that draw another model, which
    are `sketched`, only one can be made at a time.
    """

    settings: str
    cost: str
    rank: int
    apply: Callable[[Profile, Sketch], tuple[Profile, Sketch]]
    sketched: bool = False


@attrs.frozen(kw_only=True)
class Advice:
    """A change and the plan with it. `saves` is bytes of the peak, `slower` how the time of a step changes.

    `tight` says that it fits by less than what a plan may be wrong by.
    """

    settings: str
    cost: str
    saves: float
    peak: float
    fits: bool
    slower: float
    tight: bool = False


def advise(
    plan: Plan,
    profile: Profile,
    known: Sketch,
    *,
    rows: RowShape | None = None,
    said: Said | None = None,
    others: Iterable[Change] = (),
) -> list[Advice]:
    """Changes that save memory, those that fit first and the cheapest of them at the top.

    When none is enough alone, the first answer is the shortest combination of the cheapest that fits.
    """

    def planned(change: Change) -> Plan:
        changed, sketch = change.apply(profile, known)
        return make_plan(changed, sketch, _shortened(rows, changed), said)

    changes = sorted([*core_changes(plan, profile), *others], key=lambda change: change.rank)
    found = [_advice(plan, planned(change), change) for change in changes]
    found = [advice for advice in found if advice.saves > 0]
    together = [] if any(advice.fits for advice in found) else _together(plan, changes, planned)
    return [*together, *sorted(found, key=lambda advice: not advice.fits)]


def core_changes(plan: Plan, profile: Profile) -> Iterator[Change]:
    """Changes of the core tables, which any run can make."""
    train, setting = profile.train, plan.setting
    if setting.attention == "eager":
        yield _set("model", rank=0, cost="", attention="sdpa")
    micro = setting.micro
    while micro > 1:
        micro //= 2
        yield _set("train", rank=1, cost="", micro_batch_size=micro)
    if setting.device == "cuda" and not train.optimizer.startswith("paged"):
        cost = "optimizer states of 8 bits, which wait in host memory when the card is full"
        yield _set("train", rank=2, cost=cost, optimizer="paged_adamw_8bit")
    if not train.activation_checkpointing:
        yield _set("train", rank=3, cost="", activation_checkpointing=True)
    if setting.rows.longest // 2 >= SHORTEST:
        cost = "longer rows are dropped or cut, as data.long_rows says"
        yield _set("train", rank=6, cost=cost, max_length=setting.rows.longest // 2)


def both(first: Change, second: Change) -> Change:
    """One change after the other."""

    def apply(profile: Profile, known: Sketch) -> tuple[Profile, Sketch]:
        return second.apply(*first.apply(profile, known))

    return Change(
        settings=f"{first.settings}, {second.settings}",
        cost="; ".join(cost for cost in (first.cost, second.cost) if cost),
        rank=max(first.rank, second.rank),
        apply=apply,
        sketched=first.sketched or second.sketched,
    )


def _set(table: str, *, rank: int, cost: str, **values: Any) -> Change:
    def apply(profile: Profile, known: Sketch) -> tuple[Profile, Sketch]:
        changed = attrs.evolve(getattr(profile, table), **values)
        return attrs.evolve(profile, **{table: changed}), known

    settings = ", ".join(f"{table}.{name} = {toml_value(value)}" for name, value in values.items())
    return Change(settings=settings, cost=cost, rank=rank, apply=apply)


def _shortened(rows: RowShape | None, profile: Profile) -> RowShape | None:
    """Rows that are known already, under a shorter `train.max_length`."""
    if rows is None or rows.longest <= profile.train.max_length:
        return rows
    limit = profile.train.max_length
    return attrs.evolve(rows, longest=limit, typical=min(rows.typical, limit), trained=min(rows.trained, limit))


def _advice(before: Plan, after: Plan, change: Change) -> Advice:
    was, now = (plan.speed.operations / plan.speed.efficiency for plan in (before, after))
    return Advice(
        settings=change.settings,
        cost=change.cost,
        saves=before.memory.peak - after.memory.peak,
        peak=after.memory.peak,
        fits=bool(after.fits),
        slower=now / was,
        tight=after.is_tight,
    )


def _together(plan: Plan, changes: list[Change], planned: Callable[[Change], Plan]) -> list[Advice]:
    """The cheapest changes one after the other, until they fit."""
    kinds: dict[str, Change] = {}
    sketched = [change for change in changes if change.sketched]
    saving = min(sketched, key=lambda change: planned(change).memory.peak, default=None)
    for change in changes:  # of several values of one key, the last one saves most
        if not change.sketched or change is saving:
            kinds[change.settings.partition(" = ")[0]] = change
    combined: Change | None = None
    for change in kinds.values():
        combined = change if combined is None else both(combined, change)
        made = _advice(plan, planned(combined), combined)
        if made.fits:
            return [made]
    return []
