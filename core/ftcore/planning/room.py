"""Refuse a run that cannot fit, before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping

from ftcore.disk import require_free, size
from ftcore.errors import RunError
from ftcore.hardware.usage import GIB
from ftcore.planning.advice import advise
from ftcore.planning.plan import TOLERANCE, Plan, Sketch, make_plan, sketch_run
from ftcore.planning.rows import counted
from ftcore.planning.towers import NotPlannedError
from ftcore.plugins import Plugins
from ftcore.values import PreparedData, Run


def sketched(plugins: Plugins, run: Run) -> Sketch | None:
    """What the plugins say of the run, or None for a model that none of them draws without its weights, or whose
    configuration says too little.

    Raises `RunError` for what the model cannot have, such as a layer to adapt, or a device that is not here.
    """
    try:
        return sketch_run(plugins, run)
    except NotPlannedError:
        return None


def require_room(run: Run, known: Sketch | None, data: PreparedData) -> Mapping[str, int]:
    """Raise `RunError` when the run is clearly over the device's memory, or writes more than the disk has room for.

    A plan may err: only a run that is over by more than `TOLERANCE` is refused. What is not known is not refused.

    Returns the bytes that each exporter writes, as far as they are known.
    """
    if known is None:
        return {}
    plan = make_plan(run.profile, known, counted(run.profile, known.facts, data))
    if plan.fits is False and plan.memory.peak > TOLERANCE * (plan.budget.memory or 0.0):
        raise RunError(_refusal(run, known, plan))
    if not run.resumed:  # what it has written already is on the disk
        _require_disk(run, plan)
    return known.exports


def export_sizes(plugins: Plugins, run: Run) -> Mapping[str, int]:
    """The bytes that each exporter writes, as far as they are known."""
    known = sketched(plugins, run)
    return known.exports if known else {}


def _require_disk(run: Run, plan: Plan) -> None:
    stored = plan.storage
    parts = {"checkpoints": stored.checkpoints, "result": stored.result, "exports": stored.exports}
    named = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    fix = "free some, lower train.save_limit, leave out an exporter, or name another run.output_dir"
    require_free(run.folder.parent, int(stored.total), f"the run ({named})", fix)


def _refusal(run: Run, known: Sketch, plan: Plan) -> str:
    needed, there = plan.memory.peak / GIB, (plan.budget.memory or 0.0) / GIB
    fitting = [advice for advice in advise(plan, run.profile, known, rows=plan.setting.rows) if advice.fits]
    fix = f"set {fitting[0].settings}, which needs {fitting[0].peak / GIB:.1f}" if fitting else "see ftcore plan"
    return (
        f"the run needs about {needed:.1f} GiB and {plan.budget.name} has {there:.1f}; {fix},"
        f" or set hardware.memory to {needed:.0f} to try all the same"
    )
