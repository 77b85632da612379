"""What to change first, and when a run is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.errors import RunError
from ftcore.hardware.usage import GIB
from ftcore.planning import room
from ftcore.planning.advice import Advice, Change, advise
from ftcore.planning.plan import Plan, Sketch, make_plan
from ftcore.planning.report import hours, plan_as_json, plan_lines
from ftcore.planning.towers import NotPlannedError
from ftcore.tables import HardwareTable, ModelTable, TrainTable
from ftcore.values import Profile, Run
from planned_models import facts, rows
from test_rows import prepared

LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "vocab_size": 32000,
}
KNOWN = Sketch(facts=facts(rank=8, **LARGE), quantization=None, arguments={}, exports={})


def profile(memory: float, **train: Any) -> Profile:
    hardware = HardwareTable(device="cuda", memory=memory, tflops=100.0, card="A CARD")
    values = {"max_length": 1024, "batch_size": 8, **train}
    return Profile(hardware=hardware, train=TrainTable(**values), model=ModelTable())


def planned(memory: float, **train: Any) -> tuple[Plan, list[Advice]]:
    made = profile(memory, **train)
    plan = make_plan(made, KNOWN, rows(1024))
    return plan, advise(plan, made, KNOWN, rows=rows(1024))


def test_cheapest_change_that_fits_comes_first() -> None:
    plan, advice = planned(10)
    assert plan.fits is False
    assert advice[0].fits
    assert advice[0].settings.startswith("train.micro_batch_size = ")
    assert advice[0].saves == pytest.approx(plan.memory.peak - advice[0].peak)
    assert [one.fits for one in advice] == sorted((one.fits for one in advice), reverse=True)


def test_changes_go_together_when_none_is_enough() -> None:
    plan, _ = planned(10)
    _, advice = planned(make_plan(profile(10, micro_batch_size=1), KNOWN, rows(1024)).memory.peak / GIB * 0.97)
    assert "train.micro_batch_size = 1, " in advice[0].settings
    assert advice[0].fits
    assert plan.memory.peak > advice[0].peak


def test_checkpointing_is_told_to_be_slower() -> None:
    _, advice = planned(10)
    (found,) = [one for one in advice if one.settings == "train.activation_checkpointing = true"]
    assert 1.2 < found.slower < 1.6


def test_changes_of_others_are_planned_too() -> None:
    made = profile(10)
    plan = make_plan(made, KNOWN, rows(1024))
    smaller = Sketch(facts=facts(rank=4), quantization=None, arguments={}, exports={})
    change = Change(
        settings="another model", cost="", rank=9, sketched=True, apply=lambda profile, _: (profile, smaller)
    )
    found = [
        one for one in advise(plan, made, KNOWN, rows=rows(1024), others=[change]) if one.settings == "another model"
    ]
    assert [one.fits for one in found] == [True]


def test_text_and_json_say_the_same() -> None:
    plan, advice = planned(10)
    text, values = "\n".join(plan_lines(plan, advice)), plan_as_json(plan, advice)
    assert f"does not fit: {values['memory']['peak_gib']:.1f} GiB" in text
    assert values["fits"] is False
    assert values["parameters"]["trainable"] == KNOWN.facts.trained
    assert values["memory"]["peak_gib"] == pytest.approx(sum(values["memory"]["parts"].values()))
    assert values["memory"]["torch_gib"] < values["memory"]["peak_gib"]
    assert values["advice"][0]["change"] in text


class Nothing:
    """Stands for plugins that draw no model."""

    def implementers(self, hook: str) -> list[str]:
        return ["loader"] if hook == "load_model" else []

    def sketch_model(self, run: Run) -> None:
        return None


def refuse(memory: float, known: Sketch | None = KNOWN) -> None:
    run = Run(name="r", folder=Path("runs/r"), profile=profile(memory))
    room.require_room(run, known, prepared([1024] * 16, 512))


def test_run_that_cannot_fit_is_refused_with_a_way_out() -> None:
    with pytest.raises(RunError) as caught:
        refuse(10)
    text = str(caught.value)
    assert "A CARD has 10.0" in text
    assert "set train.micro_batch_size = " in text
    assert "set hardware.memory to" in text


def test_run_that_fits_and_model_that_nobody_draws_are_let_through() -> None:
    refuse(80)
    run = Run(name="r", folder=Path("runs/r"), profile=profile(1))
    known = room.sketched(Nothing(), run)  # type: ignore[arg-type]
    assert known is None
    refuse(1, known)


def test_run_without_room_on_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore.disk.free_bytes", lambda path: 2**20)
    with pytest.raises(RunError, match=r"the run \(checkpoints .*\) writes about .* has 1.0 MiB"):
        refuse(80)


def test_room_for_exports_is_needed_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore.disk.free_bytes", lambda path: 100 * GIB)
    refuse(80)
    with pytest.raises(RunError, match=r"exports 200.0 GiB\) .*; free some, lower train.save_limit, leave out an exp"):
        refuse(80, attrs.evolve(KNOWN, exports={"gguf": int(200 * GIB)}))


def test_what_fits_by_less_than_the_error_of_a_plan_is_told() -> None:
    peak = make_plan(profile(80), KNOWN, rows(1024)).memory.peak / GIB
    tight, roomy = (make_plan(profile(peak * share), KNOWN, rows(1024)) for share in (1.02, 1.5))
    assert (tight.fits, tight.is_tight, roomy.is_tight) == (True, True, False)
    assert "may be wrong by more than what is left" in next(plan_lines(tight))
    assert plan_as_json(tight)["tight"] is True
    assert "wrong" not in next(plan_lines(roomy))


def test_lines_are_no_longer_than_a_terminal() -> None:
    plan, advice = planned(4)
    assert max(map(len, plan_lines(plan, advice, "a bigger card, such as " + "name " * 20))) <= 80


def test_processes_that_nobody_can_count_are_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore.planning.plan.nvidia_memory_gib", lambda: [])
    made = profile(80)
    every = attrs.evolve(made, hardware=attrs.evolve(made.hardware, processes=0))
    assert any("hardware.processes=8" in text for text in make_plan(every, KNOWN, rows(1024)).assumed)
    assert not make_plan(made, KNOWN, rows(1024)).assumed


def test_model_that_plans_do_not_know_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(plugins: Any, run: Run) -> Sketch:
        raise NotPlannedError("no heads")

    monkeypatch.setattr(room, "sketch_run", unknown)
    run = Run(name="r", folder=Path("runs/r"), profile=profile(1))
    assert room.sketched(Nothing(), run) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [(100, "4.2 days"), (3, "3.0 hours"), (1 / 60, "1 minute"), (0.5, "30 minutes"), (0, "0 seconds")],
)
def test_durations(value: float, text: str) -> None:
    assert hours(value) == text
