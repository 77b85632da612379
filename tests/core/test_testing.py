"""`ftcore.testing`, the kit for plugin authors."""

from __future__ import annotations

import attrs
import pytest

from ftcore.api import hookimpl, option
from ftcore.checkpoints import verify
from ftcore.testing import RecordingControl, heavy_imports, make_config, make_run, plugin_faults, prove_labels
from ftcore.values import Decision, Step


@attrs.frozen(kw_only=True)
class Config:
    size: int = option(3, help="size", at_least=1)


class Whole:
    Config = Config

    def __init__(self, config):
        self.config = config

    @hookimpl
    def check(self): ...


def test_a_run_of_ones_own(tmp_path):
    run = make_run(tmp_path, train={"max_steps": 7}, data={"path": "x.jsonl"})
    assert run.folder == tmp_path
    assert run.profile.train.max_steps == 7
    assert run.profile.data.path is not None
    assert run.profile.run.seed == 42


def test_a_run_with_mistakes_names_all_of_them(tmp_path):
    with pytest.raises(
        ValueError, match=r"max_stepz: unknown key; did you mean 'max_steps'\?.*batch_size: must be >= 1"
    ):
        make_run(tmp_path, train={"max_stepz": 7, "batch_size": 0})


def test_a_table_that_is_none_is_no_silent_default(tmp_path):
    with pytest.raises(ValueError, match="trian"):
        make_run(tmp_path, trian={"max_steps": 7})


def test_options_are_checked_as_a_profiles_are():
    assert make_config(Config) == Config(size=3)
    assert make_config(Config, {"size": 5}).size == 5
    with pytest.raises(ValueError, match="size: expected a whole number, got '5'"):
        make_config(Config, {"size": "5"})


def test_the_control_records_and_decides(tmp_path):
    control = RecordingControl(folder=tmp_path, save_at=(2,), evaluate_at=(1, 2), stop_at=2)
    decisions = [
        control.step_ended(Step(number=number, total=2, epoch=0, metrics={"loss": number})) for number in (1, 2)
    ]
    assert decisions == [Decision(evaluate=True), Decision(evaluate=True, checkpoint=True, stop=True)]
    assert [step.number for step in control.steps] == [1, 2]
    control.evaluated(2, {"eval_loss": 0.5})
    assert control.evaluations == {2: {"eval_loss": 0.5}}
    with control.checkpoint(2) as folder:
        (folder / "state").write_text("x")
    assert verify(tmp_path / "step-000002") == ""


def test_a_plugin_without_faults_has_none():
    assert plugin_faults(Whole) == []


def test_what_a_plugin_lacks_is_listed():
    class Empty: ...

    @attrs.frozen
    class Terse:
        size: int = 1

    class Helpless(Whole):
        Config = Terse

    class Unattrs(Whole):
        Config = dict

    class Misspelt(Whole):
        @hookimpl
        def on_step(self, stepp): ...

        @hookimpl
        def on_stop(self): ...

    assert plugin_faults(Misspelt) == [
        "Misspelt does not fit its hooks: on_step has no argument 'stepp'; did you mean 'step'?",
        "Misspelt implements an unknown hook 'on_stop'; did you mean 'on_step'?",
    ]
    assert plugin_faults(Empty)[0].startswith("Empty implements no hook of check, launch, ")
    assert plugin_faults(Helpless) == ["option size has no help"]
    assert plugin_faults(Unattrs) == ["Unattrs.Config is no attrs class"]


def test_heavy_imports_are_found(installation, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installation.folder))
    installation.module("light_face", "def hook():\n    import numpy")
    installation.module("heavy_face", "import numpy")
    assert heavy_imports("light_face") == []
    assert heavy_imports("heavy_face") == ["numpy"]


def test_the_proof_is_the_engines_own():
    from ftcore.data import proof

    assert prove_labels is proof.prove_labels
