"""Say beforehand whether a run fits, how long it takes and what it writes. Of the model, only its config is read."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ftcore.cli.common import add_profile_arguments, complain, print_json, table
from ftcore.errors import ExitCode, ProfileError

if TYPE_CHECKING:
    from ftcore.planning.advice import Advice
    from ftcore.planning.lengths import Lengths
    from ftcore.planning.plan import Plan, Sketch
    from ftcore.planning.rows import Said
    from ftcore.planning.setting import RowShape
    from ftcore.planning.source import Source
    from ftcore.preflight import LoadedProfile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore plan`."""
    add_profile_arguments(parser)
    machines = parser.add_mutually_exclusive_group()
    machines.add_argument("--on", metavar="NAME", help="plan for the machine of this hardware profile")
    machines.add_argument("--all", action="store_true", help="one line for each hardware profile that names its memory")
    parser.add_argument("--prepare", action="store_true", help="tokenize the rows as a run does, to count them")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of a row; train.max_length if left out")
    parser.add_argument("--trained", type=int, metavar="N", help="trained tokens of a row; all of its text if left out")
    parser.add_argument("--images", type=int, metavar="N", help="pictures of a row, crops counted; 1 if left out")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Plan; the exit code is 1 when the run does not fit."""
    from ftcore.planning.lengths import lengths_that_fit
    from ftcore.planning.plan import make_plan
    from ftcore.planning.rows import require_possible
    from ftcore.planning.source import Source, sketch_of

    said = _said(parsed)
    source = Source(
        path=parsed.profile,
        sets=tuple(parsed.sets),
        switch_on=tuple(parsed.switch_on),
        switch_off=tuple(parsed.switch_off),
    )
    source = source.on_machine(parsed.on, sets_win=True) if parsed.on else source
    loaded = source.load()
    known = sketch_of(loaded, complain)
    require_possible(loaded.profile, known.facts, said)
    rows = _prepared(loaded, known) if parsed.prepare else None
    if parsed.all:
        return _table(parsed, source, known, said, rows)
    plan = make_plan(loaded.profile, known, rows, said)
    advice, elsewhere = _advice(source, loaded, plan, known, said=said, rows=rows)
    lengths = None if plan.fits is not False or rows else lengths_that_fit(plan, loaded.profile, known, said)
    _show(parsed, plan, advice, elsewhere, lengths)
    return ExitCode.RUN_FAILED if plan.fits is False else ExitCode.DONE


def _said(parsed: argparse.Namespace) -> Said:
    from ftcore.planning.rows import Said

    for name, least in (("tokens", 1), ("trained", 1), ("images", 0)):
        value = getattr(parsed, name)
        if value is not None and value < least:
            raise ProfileError(f"--{name} {value}: write a number from {least} up")
        if value is not None and parsed.prepare:
            raise ProfileError(f"--{name} and --prepare: the rows are counted, so leave --{name} out")
    return Said(tokens=parsed.tokens, trained=parsed.trained, images=parsed.images)


def _prepared(loaded: LoadedProfile, known: Sketch) -> RowShape:
    from ftcore.data.prepare import prepare
    from ftcore.engine import planned
    from ftcore.planning.rows import counted
    from ftcore.preflight import check_profile

    with tempfile.TemporaryDirectory() as scratch:
        run = attrs.evolve(planned(loaded), folder=Path(scratch))
        plugins, _ = check_profile(loaded, run, report=complain)
        prepared = prepare(plugins, run, lambda _: None)
        return counted(loaded.profile, known.facts, prepared.data)


def _advice(
    source: Source, loaded: LoadedProfile, plan: Plan, known: Sketch, *, said: Said, rows: RowShape | None
) -> tuple[list[Advice], str]:
    from ftcore.hardware.usage import GIB
    from ftcore.planning.advice import advise
    from ftcore.planning.variants import other_machine, other_plugins

    if plan.fits is not False:
        return [], ""
    others = list(other_plugins(source, loaded, plan, known, complain))
    advice = advise(plan, loaded.profile, known, rows=rows, said=said, others=others)
    on_card = plan.budget.device == "cuda"  # from a processor, any card that is large enough is a way
    found = other_machine(source, said, known, (plan.budget.memory or 0) if on_card else 0, rows)
    if found is None:
        return advice, ""
    name, other = found
    card = "a bigger card" if on_card else "a card"
    return advice, f"{card}, such as {name}: {other.memory.peak / GIB:.1f} GiB with its own settings"


def _show(
    parsed: argparse.Namespace, plan: Plan, advice: list[Advice], elsewhere: str, lengths: Lengths | None
) -> None:
    from ftcore.planning.report import plan_as_json, plan_lines

    if parsed.json:
        room = None if lengths is None else {"tokens": lengths.tokens, "trained": lengths.trained}
        print_json({**plan_as_json(plan, advice), "elsewhere": elsewhere, "room_for": room})
        return
    counting = _counting(parsed, lengths.text) if lengths else []
    for line in plan_lines(plan, advice, elsewhere, counting):
        print(line)


def _counting(parsed: argparse.Namespace, room: str) -> list[str]:
    """How to count the rows; nothing where no row would have room."""
    if not room:
        return []
    options = {"--set": parsed.sets, "--with": parsed.switch_on, "--without": parsed.switch_off}
    words = [word for option, values in options.items() for value in values for word in (option, value)]
    words += ["--on", parsed.on] if parsed.on else []
    command = shlex.join(["ftcore", "plan", str(parsed.profile), *words, "--prepare"])
    return ["count the rows first, which may be enough:", f"  {command}", f"  {room}", ""]


def _table(parsed: argparse.Namespace, source: Source, known: Sketch, said: Said, rows: RowShape | None) -> int:
    from ftcore.planning.report import MACHINE_COLUMNS, machine_row, plan_as_json
    from ftcore.planning.variants import on_machines

    plans = on_machines(source, said, known, rows, complain)
    if parsed.json:
        print_json({"profiles": {name: plan_as_json(plan) for name, plan in plans.items()}})
        return 0
    ordered = sorted(plans.items(), key=lambda found: found[1].budget.memory or 0)
    table(MACHINE_COLUMNS, [machine_row(name, plan) for name, plan in ordered])
    for text in next(iter(plans.values())).setting.rows.assumed if plans else ():
        print(f"assumed: {text}")
    return 0
