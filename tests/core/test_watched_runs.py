"""Health and early stopping in whole runs of the light plugins: what they tell is written down, and obeyed."""

from __future__ import annotations

import pytest

from ftcore import engine
from ftcore.journal.events import read_events
from ftcore.journal.metrics import read_metrics
from ftcore.manifest import read_manifest

WATCHERS = {
    "early_stopping": "ftcore_plugins.early_stopping:EarlyStopping",
    "health": "ftcore_plugins.health:Health",
}

TRAINER = """
    from light_plugins import Arithmetic

    class Idle(Arithmetic):
        def _report(self, state):
            made = super()._report(state)
            return attrs.evolve(made, metrics={**made.metrics, "learning_rate": 0.0})

        def evaluate(self):
            return {"eval_loss": 2.0}

    class Plugin:
        @hookimpl
        def make_trainer(self, run, loaded, data):
            return Idle(run, loaded, data, 0.9)
"""


@pytest.fixture
def watched(desk):
    """A run of 60 steps that learns nothing, with health as it comes: on without a table."""
    health = {"health": WATCHERS["health"]}
    desk.installation.distribution("watchers", plugins=WATCHERS, fallbacks=health)
    desk.installation.plugin("idle", TRAINER)
    desk.replace("[plugin.light_trainer]", "[plugin.idle]")
    desk.replace("max_steps = 10", "max_steps = 60")
    return desk


def notices(folder):
    return [event for event in read_events(folder / "events.jsonl") if event.kind == "notice"]


def test_health_is_on_without_a_table_and_tells_the_journal_and_the_user(watched, display):
    folder = engine.run(watched.load(), display=display).folder
    [zero] = [event for event in notices(folder) if event.values["sign"] == "learning-rate-zero"]
    assert zero.step == 20
    assert zero.values["page"] == "docs/health.md#learning-rate-zero"
    assert any("the learning rate has been 0 for 20 steps" in line for line in display.lines)


def test_health_can_be_switched_off_and_tuned(watched):
    off = engine.run(watched.load(switch_off=["health"])).folder
    assert notices(off) == []
    watched.append('\n[plugin.health]\noff = ["learning-rate-zero"]\n')
    also = engine.run(watched.load(switch_off=["health"])).folder
    assert notices(also) == [], "a table that is left out does not bring the fallback back"
    tuned = engine.run(watched.load()).folder
    assert "learning-rate-zero" not in [event.values["sign"] for event in notices(tuned)]


def test_what_is_off_stays_off_when_the_run_goes_on(watched, monkeypatch):
    watched.replace('output_dir = "runs"', 'output_dir = "runs"\nwithout = ["health"]')
    monkeypatch.setenv("LIGHT_FAULT", "step:14=RunError")
    with pytest.raises(engine.RunError, match="light fault"):
        engine.run(watched.load())
    monkeypatch.delenv("LIGHT_FAULT")
    engine.resume(watched.runs()[0])
    assert notices(watched.runs()[0]) == []


def test_what_is_left_out_must_be_there_and_have_no_table(watched, complaints):
    watched.replace('output_dir = "runs"', 'output_dir = "runs"\nwithout = ["helth"]')
    assert complaints(watched.profile) == [
        "light.toml:4: run.without: no fallback is called helth; did you mean 'health'?"
    ]
    watched.replace('["helth"]', '["health"]\n[plugin.health]\nwindow = 20')
    [told] = complaints(watched.profile)
    assert told.endswith("plugin.health: run.without switches it off; keep one of them")
    watched.replace('without = ["health"]', "without = 3")
    [told] = complaints(watched.profile, switch_off=["health"])
    assert "run.without: expected a list" in told


def test_a_run_that_improves_no_more_is_stopped_and_exports(watched):
    watched.append("\n[plugin.early_stopping]\npatience = 12\n")
    outcome = engine.run(watched.load())
    assert outcome.step == 16, "the first evaluation is at step 4"
    assert outcome.reason == "early_stopping: eval_loss has not improved on 2, of step 4, for 12 steps"
    assert outcome.artifacts


def test_patience_survives_a_fault(watched, monkeypatch):
    watched.append("\n[plugin.early_stopping]\npatience = 12\n")
    monkeypatch.setenv("LIGHT_FAULT", "step:14=RunError")
    with pytest.raises(engine.RunError, match="light fault"):
        engine.run(watched.load())
    monkeypatch.delenv("LIGHT_FAULT")
    [folder] = watched.runs()
    assert engine.resume(folder).step == 16
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "eval_loss" in line] == [4, 8, 12, 16]


def test_what_is_stopped_early_is_not_trained_on_when_resumed_for_its_exports(watched, monkeypatch):
    watched.append("\n[plugin.early_stopping]\nmax_hours = 1e-9\npatience = 0\n")
    monkeypatch.setenv("LIGHT_FAULT", "export=RunError")
    with pytest.raises(engine.RunError, match="light fault"):
        engine.run(watched.load())
    monkeypatch.delenv("LIGHT_FAULT")
    outcome = engine.resume(watched.runs()[0])
    assert outcome.step == 1
    assert outcome.reason.startswith("early_stopping: 0.00 hours are over")


def test_a_run_that_is_stopped_early_ends_with_its_best_weights_also_when_it_goes_on(watched, monkeypatch):
    watched.append("\n[plugin.early_stopping]\npatience = 12\nplateau_steps = 40\n")
    monkeypatch.setenv("LIGHT_FAULT", "export=RunError")
    with pytest.raises(engine.RunError, match="light fault"):
        engine.run(watched.load(sets=["train.load_best=true", "train.save_limit=1"]))
    monkeypatch.delenv("LIGHT_FAULT")
    [folder] = watched.runs()
    outcome, manifest = engine.resume(folder), read_manifest(folder)
    assert (manifest.saved_at, manifest.saved_after, outcome.step) == (4, 16, 16)
    assert outcome.reason == "early_stopping: eval_loss has not improved on 2, of step 4, for 12 steps"
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000004", "step-000016"]
