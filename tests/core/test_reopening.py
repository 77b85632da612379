"""The model of an earlier run, opened again: as it was before training, then with any weights of the run."""

from __future__ import annotations

import json

import pytest

from ftcore import engine
from ftcore.errors import ProfileError, RunError
from ftcore.evaluation.judge import Judge
from ftcore.locks import is_locked
from ftcore.reopening import opened, reopen


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.replace("max_steps = 10", "max_steps = 4")
    return engine.run(desk.load()).folder


def edit(folder, old, new):
    text = (folder / "profile.toml").read_text()
    assert old in text
    (folder / "profile.toml").write_text(text.replace(old, new))


def test_it_is_untrained_until_weights_are_put_in_and_takes_others_after_them(folder):
    after = json.loads((folder / "report.json").read_text())["loss"]["after"]
    third = json.loads((folder / "checkpoints" / "step-000003" / "state.json").read_text())["weight"]
    with opened(folder) as run:
        model = reopen(run)
        losses = [model.trainer.evaluate()["eval_loss"]]
        for checkpoint in (None, 3, None):
            model.put(run.weights(checkpoint))
            losses.append(model.trainer.evaluate()["eval_loss"])
    assert losses == [1.0, after, third, after]


def test_it_is_judged_as_in_the_run(desk, folder):
    report = json.loads((folder / "report.json").read_text())
    with opened(folder) as run:
        model = reopen(run)
        model.put(run.weights(None))
        found = Judge(plugins=run.plugins, run=run.run, trainer=model.trainer, prepared=model.prepared).whole()
    assert found.loss == report["loss"]["after"]
    assert [answer.text for answer in found.answers] == [sample["after"] for sample in report["samples"]]


def test_the_run_is_held_as_long(folder):
    with opened(folder) as run:
        assert is_locked(folder)
        assert run.run.folder == folder
    assert not is_locked(folder)


def test_whoever_trained_it_one_process_opens_it(folder):
    edit(folder, "processes = 1", "processes = 4")
    edit(folder, "machines = 1", "machines = 2")
    with opened(folder) as run:
        assert run.run.profile.hardware.processes == run.run.profile.hardware.machines == 1
        assert run.run.world.size == 1


def test_what_has_no_part_in_the_model_may_differ(folder):
    with opened(folder, sets=["hardware.threads=1", "export.verify=false", "plugin.light_export.verdict=failed"]):
        pass


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shrink = 0.9", "shrink = 0.8", "plugin.light_trainer.shrink: 0.9 -> 0.8"),
        ("seed = 42", "seed = 7", "run.seed: 42 -> 7"),
        ('[plugin.light_diary]\npath = "', '[plugin.light_score]\n[plugin.light_diary]\npath = "', "light_score"),
    ],
)
def test_what_makes_it_another_model_is_refused_unless_allowed(folder, old, new, said):
    edit(folder, old, new)
    with (
        pytest.raises(ProfileError, match=r"the profile has changed since the run began .*; pass --allow-changes") as e,
        opened(folder),
    ):
        pass
    assert said in str(e.value)
    with opened(folder, allow_changes=True):
        pass


def test_a_damaged_checkpoint_is_refused(folder):
    (folder / "checkpoints" / "step-000003" / "state.json").write_text("{}")
    with opened(folder) as run, pytest.raises(RunError, match=r"step-000003 is damaged: state.json has changed"):
        run.weights(3)
