"""The best checkpoint: which one it is, that it stays, and that a run may end with it."""

from __future__ import annotations

import json
import os
import time

import pytest

from ftcore import engine
from ftcore.checkpoints import CheckpointStore, verify
from ftcore.errors import Interrupted, RunError
from ftcore.evaluation.best import Best
from ftcore.journal.events import read_events
from ftcore.manifest import read_manifest
from ftcore.reopening import opened
from ftcore.shipping.again import export_again

WORSE = "plugin.light_trainer.shrink=1.1"
"""The weight, and with it the loss, grows: the first evaluation is the best."""

LOAD = [WORSE, "train.load_best=true"]

SCORER = """
class Plugin:
    @hookimpl
    def score(self, predictions):
        return {"peak": -abs(float(predictions[0].answer.split()[0]) - 1.6)}
"""

HELD_OUT = """
class Plugin:
    @hookimpl
    def load_rows(self, run):
        rows = [Row(values={"prompt": f"what is {n}?", "reply": str(n)}, origin=f"x:{n}") for n in range(9)]
        long = Row(values={"prompt": "x" * 5000, "reply": "too long"}, origin="x:10")
        return RowSource(parts=(Part(rows=rows),), validation=[long])
"""


def committed(folder):
    return [checkpoint.step for checkpoint in CheckpointStore(folder=folder / "checkpoints", keep=9).all()]


def weight_of(path):
    return json.loads(path.read_text("utf-8"))["weight"]


def at_step(folder, step):
    return weight_of(folder / "checkpoints" / f"step-{step:06d}" / "state.json")


def report(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


def store_with(tmp_path, values, keep=2, metric="eval_loss"):
    """A store whose run has measured `values` by step."""
    lines = [{"step": step, metric: value} for step, value in values.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = Best(metrics=tmp_path / "metrics.jsonl", metric=metric)
    return CheckpointStore(folder=tmp_path / "checkpoints", keep=keep, ranked=best.ranked)


def commit(store, *steps):
    for step in steps:
        with store.commit(step) as folder:
            (folder / "weights").write_text(str(step))


# Which one


@pytest.mark.parametrize(
    ("metric", "best"), [("eval_loss", 4), ("eval_perplexity", 4), ("eval_exact", 2), ("eval_made_up", 2)]
)
def test_less_of_a_loss_and_more_of_anything_else_is_better(tmp_path, metric, best):
    store = store_with(tmp_path, {1: 0.5, 2: 0.9, 3: 0.5, 4: 0.1}, keep=9, metric=metric)
    commit(store, 1, 2, 3, 4)
    assert store.best(pytest.fail).step == best


def test_of_two_that_are_alike_the_earlier_one_is_the_best(tmp_path):
    assert Best(metrics=tmp_path / "none", metric="eval_loss").ranked([1, 2]) == []
    store = store_with(tmp_path, {1: 0.5, 2: 0.5, 3: 0.7}, keep=9)
    commit(store, 3, 2, 1)
    assert store.best(pytest.fail).step == 1


def test_of_two_equal_scores_the_one_with_less_loss_is_the_best(tmp_path):
    store = store_with(tmp_path, {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.25}, keep=9, metric="eval_exact")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for step, loss in {1: 0.9, 2: 0.7, 3: 0.7, 4: 0.1}.items():
            file.write(json.dumps({"step": step, "eval_exact": 0.25 if step == 4 else 0.5, "eval_loss": loss}) + "\n")
    commit(store, 1, 2, 3, 4)
    assert store.best(pytest.fail).step == 2


def test_what_is_no_number_is_never_the_best_and_the_last_word_of_a_step_counts(tmp_path):
    store = store_with(tmp_path, {1: None, 2: 0.3, 3: 0.2}, keep=9)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "eval_loss": 0.9}\n{"step": 1, "eval_loss": true}\nnoise "eval_loss"\n')
        file.write('{"step": 1, "eval_loss": 0.0}')  # torn
    commit(store, 1, 2, 3)
    assert store.best(pytest.fail).step == 2


def test_a_damaged_best_is_passed_over_with_a_reason(tmp_path):
    store = store_with(tmp_path, {1: 0.1, 2: 0.2}, keep=9)
    commit(store, 1, 2)
    (store.folder / "step-000001" / "weights").write_text("flipped")
    told = []
    assert store.best(told.append).step == 2
    assert told == ["skipping checkpoint step-000001: weights has changed since it was written"]


# That it stays


def test_the_best_stays_whatever_the_clock_says(tmp_path):
    store = store_with(tmp_path, {1: 0.4, 2: 0.1, 3: 0.3})
    commit(store, 1, 2)
    for step, when in ((1, time.time() + 10**8), (2, 1.0)):
        os.utime(store.folder / f"step-{step:06d}", (when, when))
    commit(store, 3, 4, 5, 6)
    assert [checkpoint.step for checkpoint in store.all()] == [2, 5, 6]


def test_damaged_checkpoints_do_not_push_sound_ones_out(tmp_path):
    commit(store_with(tmp_path, {}, keep=9), 1, 2, 3)
    store = store_with(tmp_path, {1: 0.1})
    (store.folder / "step-000003" / "weights").write_text("flipped")
    commit(store, 4)
    assert [checkpoint.step for checkpoint in store.all()] == [1, 2, 4]


def test_a_damaged_best_is_not_the_best(tmp_path):
    commit(store_with(tmp_path, {}, keep=9), 1, 2, 3)
    store = store_with(tmp_path, {1: 0.1, 2: 0.2}, keep=1)
    (store.folder / "step-000001" / "weights").write_text("flipped")
    commit(store, 4)
    assert [checkpoint.step for checkpoint in store.all()] == [2, 4]


def test_what_this_process_wrote_is_not_read_again(tmp_path, monkeypatch):
    store = store_with(tmp_path, {})
    commit(store, 1, 2)
    monkeypatch.setattr("ftcore.checkpoints.verify", lambda folder: pytest.fail(f"{folder} is read"))
    commit(store, 3)
    assert [checkpoint.step for checkpoint in store.all()] == [2, 3]


def failed_at(desk, monkeypatch, place):
    monkeypatch.setenv("LIGHT_FAULT", f"{place}=RunError")
    with pytest.raises(RunError):
        engine.run(desk.load(sets=[WORSE, "train.eval_steps=3", "train.save_limit=1"]))
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    return folder


def test_a_run_keeps_its_newest_and_its_best(desk):
    outcome = engine.run(desk.load(sets=[WORSE, "train.eval_steps=3"]))
    assert committed(outcome.folder) == [3, 9, 10]
    best = read_manifest(outcome.folder).best
    assert (best["metric"], best["step"]) == ("eval_loss", 3)
    assert best == report(outcome.folder)["best"]
    assert read_manifest(outcome.folder).saved_at == 10  # it is not asked to end with the best


def test_the_best_survives_a_resume(desk, monkeypatch):
    folder = failed_at(desk, monkeypatch, "step:8")
    assert committed(folder) == [3, 6]
    engine.resume(folder)
    assert committed(folder) == [3, 10]


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        ("rows", ["step:8"]),
        ("model", ["step:8"]),
        ("rows", ["step:8", "make_trainer"]),
        ("rows", ["step:8", "step:8"]),
    ],
    ids=str,
)
def test_what_was_measured_on_other_rows_or_weights_is_not_compared(desk, monkeypatch, changed, places):
    """Every loss after the change is worse than those before, and is the best all the same."""
    folder = failed_at(desk, monkeypatch, places[0])
    if changed == "rows":
        desk.write_rows(13)
    else:
        monkeypatch.setenv("LIGHT_REVISION", "r2")
    for place in places[1:]:
        monkeypatch.setenv("LIGHT_FAULT", f"{place}=RunError")
        with pytest.raises(RunError):
            engine.resume(folder, allow_changes=True)
        monkeypatch.delenv("LIGHT_FAULT")
    engine.resume(folder, allow_changes=True)
    assert committed(folder) == [9, 10]
    manifest = read_manifest(folder)
    assert manifest.best["step"] == 9
    assert manifest.measured_otherwise == 6
    befores = [event.step for event in read_events(folder / "events.jsonl") if event.values.get("when") == "before"]
    assert len(befores) == 2  # what the untrained model is compared with is judged on the new rows, too


# That the run ends with it


def test_a_run_may_end_with_its_best_weights(desk, display):
    outcome = engine.run(desk.load(sets=LOAD), display=display)
    folder, manifest = outcome.folder, read_manifest(outcome.folder)
    assert committed(folder) == [4, 9, 10]
    best = at_step(folder, 4)
    assert weight_of(folder / "adapter" / "weight.json") == best
    assert weight_of(folder / "exports" / "light.json") == best
    assert outcome.loss_after == best  # it is judged as it is shipped
    assert (manifest.saved_at, manifest.saved_after, manifest.step) == (4, 10, 10)
    assert manifest.best == {"metric": "eval_loss", "step": 4, "value": best}
    assert (report(folder)["saved_at"], report(folder)["best"]) == (4, manifest.best)
    said = f"the run ends with its best weights, of step 4 of 10: eval_loss {best:.4g}"
    assert said in display.lines


def test_every_evaluation_and_the_last_step_can_be_the_best(desk):
    folder = engine.run(desk.load(sets=["train.load_best=true", "train.save_limit=9"])).folder
    assert committed(folder) == [3, 4, 6, 8, 9, 10]
    manifest = read_manifest(folder)
    assert (manifest.best["step"], manifest.saved_at) == (10, 10)


def test_export_takes_the_best_weights_too(desk):
    folder = engine.run(desk.load(sets=LOAD)).folder
    (folder / "exports" / "light.json").unlink()
    export_again(folder)
    assert weight_of(folder / "exports" / "light.json") == at_step(folder, 4)
    with opened(folder) as run:
        assert run.weights(None) == folder / "adapter"


def test_a_run_may_be_told_what_is_best(desk):
    desk.installation.plugin("scorer", SCORER)
    desk.append("\n[plugin.scorer]\n")
    sets = [WORSE, "train.eval_steps=1", "train.load_best=true", "train.best_metric=eval_peak"]
    folder = engine.run(desk.load(sets=sets)).folder
    manifest = read_manifest(folder)
    assert 1 < manifest.saved_at < 10
    assert manifest.best["metric"] == "eval_peak"
    assert weight_of(folder / "adapter" / "weight.json") == at_step(folder, manifest.saved_at)


@pytest.mark.parametrize("place", ["step:9", "load", "write_reference", "export"])
def test_killed_at_any_time_it_ends_the_same(desk, monkeypatch, place):
    whole = engine.run(desk.load(sets=LOAD)).folder
    monkeypatch.setenv("LIGHT_FAULT", f"{place}=SystemExit")
    if place == "write_reference":
        desk.append("\n[plugin.light_reference]\n\n[plugin.light_pack]\n")
    with pytest.raises(Exception, match=r"light fault|SystemExit"):
        engine.run(desk.load(sets=LOAD))
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = set(desk.runs()) - {whole}
    engine.resume(folder)
    for name in ("saved_at", "saved_after", "step", "best", "loss"):
        assert getattr(read_manifest(folder), name) == getattr(read_manifest(whole), name)
    assert weight_of(folder / "adapter" / "weight.json") == weight_of(whole / "adapter" / "weight.json")
    assert weight_of(folder / "exports" / "light.json") == weight_of(whole / "exports" / "light.json")


def test_a_run_that_goes_on_after_its_end_has_no_weights_until_it_ends_again(desk, monkeypatch):
    folder = engine.run(desk.load(sets=LOAD)).folder
    monkeypatch.setenv("LIGHT_FAULT", "step:18=RunError")
    with pytest.raises(RunError):
        engine.resume(folder, sets=["train.max_steps=20"], allow_changes=True)
    monkeypatch.delenv("LIGHT_FAULT")
    with opened(folder, allow_changes=True) as run, pytest.raises(RunError, match="is of step 4 and the run has gone"):
        run.weights(None)
    assert engine.resume(folder).state == "finished"
    assert read_manifest(folder).saved_at == 4
    assert read_manifest(folder).saved_after == 20


def test_several_processes_put_the_best_weights_back_together(desk, monkeypatch):
    for name, value in desk.installation.env.items():
        monkeypatch.setenv(name, value)
    desk.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    desk.append("\n[plugin.light_ranks]\n")
    folder = engine.run(desk.load(sets=[*LOAD, "hardware.processes=2"])).folder
    assert read_manifest(folder).saved_at == 4
    assert weight_of(folder / "adapter" / "weight.json") == at_step(folder, 4)
    assert verify(folder / "checkpoints" / "step-000004") == ""


def test_several_processes_that_fail_at_the_end_come_to_the_same(desk, monkeypatch):
    for name, value in desk.installation.env.items():
        monkeypatch.setenv(name, value)
    desk.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    desk.append("\n[plugin.light_ranks]\n")
    monkeypatch.setenv("LIGHT_FAULT", "load=RunError")
    with pytest.raises(RunError, match="light fault in load"):
        engine.run(desk.load(sets=[*LOAD, "hardware.processes=2"]))
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    assert read_manifest(folder).saved_at == 0
    engine.resume(folder)
    assert (read_manifest(folder).saved_at, read_manifest(folder).saved_after) == (4, 10)
    assert weight_of(folder / "adapter" / "weight.json") == at_step(folder, 4)


def test_who_stops_early_is_evaluated_once_more(desk):
    desk.replace('path = "diary.jsonl"', 'path = "diary.jsonl"\nstop_at = 6')
    outcome = engine.run(desk.load(sets=["train.load_best=true"]))
    assert outcome.step == 6
    assert read_manifest(outcome.folder).best["step"] == 6


def test_a_signal_is_obeyed_without_a_last_evaluation(desk, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:6=SIGTERM")
    with pytest.raises(Interrupted):
        engine.run(desk.load(sets=LOAD))
    (folder,) = desk.runs()
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "eval_loss" in line] == [4]


# What can never be


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("load_best = true\neval_steps = 0", "train.load_best: no evaluation says which checkpoint is the best;"),
        ('best_metric = "loss"', "train.best_metric: 'loss' is none of an evaluation's figures: eval_loss,"),
        ('best_metric = "eval_confusion/a/b"', "'eval_confusion/a/b' is none of an evaluation's figures"),
        ('best_metric = "eval_exact"\neval_steps = 0', "eval_exact is never measured; set train.eval_steps"),
        ('best_metric = "eval_exact"\neval_samples = 0', "eval_exact is never measured; set train.eval_samples"),
    ],
)
def test_a_best_that_cannot_be_known_is_a_problem_of_the_profile(desk, complaints, settings, complaint):
    lines = [line.partition(" =")[0] for line in settings.splitlines()]
    kept = [line for line in desk.profile.read_text().splitlines() if line.partition(" =")[0] not in lines]
    desk.write("\n".join(kept).replace("[train]", f"[train]\n{settings}"))
    (told,) = complaints(desk.profile)
    assert complaint in told


def test_a_figure_of_scores_needs_a_plugin_that_scores(desk):
    with pytest.raises(Exception, match="no plugin scores answers, so there is no eval_exact; set it to eval_loss"):
        engine.run(desk.load(sets=["train.best_metric=eval_exact"]))


@pytest.mark.parametrize("samples", [8, 0])
def test_a_figure_that_is_not_measured_ends_the_run_before_its_first_checkpoint_is_chosen(desk, samples):
    sets = ["train.best_metric=eval_answerd", f"run.samples={samples}"]
    text = "train.best_metric: an evaluation does not measure 'eval_answerd'; did you mean 'eval_answered'?"
    with pytest.raises(RunError, match=text.replace("?", r"\?")):
        engine.run(desk.load(sets=sets, switch_on=["light_score"]))
    (folder,) = desk.runs()
    assert (folder / "metrics.jsonl").exists() == (samples == 0)  # known before the first step, where it can be


def test_held_out_rows_that_are_all_dropped_leave_nothing_to_choose_by(desk):
    desk.installation.plugin("held_out", HELD_OUT)
    desk.replace("[plugin.light_rows]", "[plugin.held_out]")
    with pytest.raises(RunError, match=r"all 1 held-out rows were dropped \(longer than train.max_length: 1\); mend"):
        engine.run(desk.load(sets=["train.load_best=true"]))
