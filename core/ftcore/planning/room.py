"""Refuse a run that cannot fit, before its weights are read."""

from __future__ import annotations

from ftcore.disk import free_bytes
from ftcore.errors import RunError
from ftcore.planning.advice import advise
from ftcore.planning.measure import NotPlannedError
from ftcore.planning.memory import GIB
from ftcore.planning.plan import TOLERANCE, Plan, Sketch, make_plan, sketch_run
from ftcore.planning.rows import counted
from ftcore.plugins import Plugins
from ftcore.values import PreparedData, Run


def require_room(plugins: Plugins, run: Run, data: PreparedData) -> None:
    """Raise `RunError` when the run's rows and model are clearly over the device's memory.

    A plan may err: only a run that is over by more than `TOLERANCE` is refused. A model that no plugin draws without
    its weights, or whose configuration says too little, is not planned, and not refused.
    """
    if not plugins.implementers("sketch_model") or not len(data.train):
        return
    try:
        known = sketch_run(plugins, run)
    except NotPlannedError:
        return
    plan = make_plan(run.profile, known, counted(run.profile, known.facts, data))
    if plan.budget.memory is not None and plan.memory.peak > TOLERANCE * plan.budget.memory:
        raise RunError(_refusal(run, known, plan))
    if not run.resumed:  # what it has written already is on the disk
        _require_disk(run, plan)


def _require_disk(run: Run, plan: Plan) -> None:
    needed, free = plan.storage.checkpoints + plan.storage.result, free_bytes(run.folder)
    if needed > free:
        text = f"checkpoints and result take {needed / GIB:.1f} GiB and {run.folder.parent} has {free / GIB:.1f} free"
        raise RunError(f"{text}; free some, lower train.save_limit, or name another run.output_dir")


def _refusal(run: Run, known: Sketch, plan: Plan) -> str:
    needed, there = plan.memory.peak / GIB, (plan.budget.memory or 0.0) / GIB
    fitting = [advice for advice in advise(plan, run.profile, known, rows=plan.setting.rows) if advice.fits]
    fix = f"set {fitting[0].settings}, which needs {fitting[0].peak / GIB:.1f}" if fitting else "see ftcore plan"
    return (
        f"the run needs about {needed:.1f} GiB and {plan.budget.name} has {there:.1f}; {fix},"
        f" or set hardware.memory to {needed:.0f} to try all the same"
    )
