"""A whole run with plugins that need no torch: the folder, failures, resuming, stopping, launching."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tomllib

import attrs
import pytest
import tomli_w

from ftcore import engine
from ftcore.checkpoints import CheckpointStore, verify
from ftcore.cli import HIDDEN
from ftcore.display import Silent
from ftcore.errors import ExitCode, Interrupted, PluginError, ProfileError, RunError
from ftcore.journal.events import read_events
from ftcore.locks import is_locked
from ftcore.manifest import read_manifest
from ftcore.processes.launch import worker_command
from ftcore.runs import list_runs
from ftcore.tables import TrainTable
from ftcore.values import RunState
from journals import figures


@pytest.fixture
def run(desk, display):
    """Run the profile with options of `load_profile`; `fault` fails it at a place."""

    def start(**options):
        return engine.run(desk.load(**options), display=display)

    return start


@pytest.fixture
def fail(desk, display, monkeypatch):
    """Start a run that fails at a place, and return its folder."""

    def start(place, kind="RunError", error=RunError, **options):
        before = set(desk.runs())
        monkeypatch.setenv("LIGHT_FAULT", f"{place}={kind}")
        with pytest.raises(error):
            engine.run(desk.load(**options), display=display)
        monkeypatch.delenv("LIGHT_FAULT")
        (folder,) = set(desk.runs()) - before
        return folder

    return start


def report(folder):
    return json.loads((folder / "report.json").read_text())


def steps(folder):
    return [line["step"] for line in figures(folder) if "loss" in line]


def committed(folder):
    return [checkpoint.step for checkpoint in CheckpointStore(folder=folder / "checkpoints", keep=9).all()]


# -- a run that finishes --------------------------------------------------------------------------


def test_a_finished_run_has_the_folder_of_the_design(desk, run, display):
    outcome = run()
    folder = outcome.folder
    assert folder in desk.runs()
    assert sorted(entry.name for entry in folder.iterdir()) == [
        ".command.lock",
        ".lock",
        "adapter",
        "checkpoints",
        "events.jsonl",
        "exports",
        "manifest.json",
        "metrics.jsonl",
        "profile.toml",
        "report.html",
        "report.json",
        "run.log",
        "samples",
    ]
    assert committed(folder) == [9, 10], "every third step and the last one, two of them kept"
    assert all(verify(entry) == "" for entry in (folder / "checkpoints").iterdir())
    assert json.loads((folder / "adapter" / "weight.json").read_text())["weight"] == pytest.approx(outcome.loss_after)
    assert not is_locked(folder)
    assert display.lines[1:] == [
        "[1/7] reading rows",
        "[2/7] formatting data",
        "12 rows: 9 to train on, 3 held out; labels proved on 12",
        "[3/7] loading model",
        "[4/7] judging before",
        "[5/7] training",
        *(line for line in display.lines if line.startswith("step ")),
        "[6/7] judging after",
        "[7/7] exporting",
        "light light.json: proved: difference 0.25",
    ]
    logged = [line.partition("ftcore: ")[2] for line in (folder / "run.log").read_text().splitlines()]
    assert logged == display.lines[1:]


def test_the_outcome_the_manifest_and_the_report_agree(run):
    outcome = run()
    found = report(outcome.folder)
    manifest = read_manifest(outcome.folder)
    assert outcome.state == manifest.state == found["outcome"] == "finished"
    assert outcome.step == manifest.step == found["step"] == found["total_steps"] == 10
    assert found["loss"] == {"before": outcome.loss_before, "after": outcome.loss_after} == manifest.loss
    assert outcome.loss_before == 1.0
    assert found["ledger"] == {"rows": 12, "trained": 9, "held_out": 3, "dropped": {}, "repeated": 0}
    assert found["exports"] == [
        {
            "kind": "light",
            "path": str(outcome.folder / "exports" / "light.json"),
            "details": {},
            "proof": {"verdict": "proved", "figures": {"difference": 0.25}, "note": ""},
        }
    ]
    assert manifest.outcome(outcome.folder) == outcome
    assert manifest.ended
    told = {"base": "light/model", "revision": "r1", "fingerprint": "r1", "license": "mit"}
    assert manifest.model == told


def test_metrics_have_one_line_a_step_and_the_evaluations(run):
    folder = run().folder
    lines = figures(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 11))
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 8]
    assert set(lines[0]) == {"step", "loss", "learning_rate", "epoch"}


def test_log_steps_thin_out_the_metrics_and_keep_the_last(run):
    assert steps(run(sets=["train.log_steps=4", "train.save_steps=0"]).folder) == [4, 8, 10]


def test_the_step_of_a_checkpoint_is_logged(run):
    """A run that goes on from it finds its sums, such as the tokens so far."""
    assert steps(run(sets=["train.log_steps=4"]).folder) == [3, 4, 6, 8, 9, 10]


def test_without_save_steps_only_the_last_checkpoint_is_written(run):
    assert committed(run(sets=["train.save_steps=0"]).folder) == [10]


def test_the_resolved_profile_holds_every_option_and_absolute_paths(desk, run):
    folder = run(sets=["train.learning_rate=0.001"]).folder
    tables = tomllib.loads((folder / "profile.toml").read_text())
    assert tables["train"]["learning_rate"] == 0.001
    assert tables["train"]["scheduler"] == "cosine"
    assert tables["data"]["path"] == str(desk.folder / "rows.jsonl")
    assert tables["plugin"]["light_diary"]["path"] == str(desk.folder / "diary.jsonl")
    assert tables["run"]["name"] == "light"
    assert read_manifest(folder).settings == tables


def test_the_resolved_profile_runs_as_it_is(desk, run):
    first = run()
    again = engine.run(engine.load_profile(first.folder / "profile.toml"))
    assert figures(again.folder) == figures(first.folder)


def test_samples_and_scores_are_taken_before_and_after(run):
    outcome = run(switch_on=["light_score"], sets=["run.samples=2"])
    assert outcome.scores_before == outcome.scores_after == {"answered": 1.0}
    assert len(outcome.samples) == 2
    for sample in outcome.samples:
        assert sample.before == f"1.000 to {sample.origin}"
        assert sample.after.endswith(f"to {sample.origin}")
        assert sample.after != sample.before
        assert sample.prompt.startswith("what is ")
        assert sample.expected.split()[0] in sample.prompt


def test_without_held_out_rows_there_is_nothing_to_judge_by(run):
    outcome = run(sets=["data.validation=0", "train.eval_steps=0"])
    assert (outcome.loss_before, outcome.loss_after, outcome.samples) == (None, None, ())
    assert report(outcome.folder)["loss"] == {"before": None, "after": None}


def test_no_samples_are_none(run):
    outcome = run(sets=["run.samples=0"])
    assert outcome.samples == ()
    assert outcome.loss_after is not None


def test_plugins_keep_their_order_in_the_resolved_profile(desk, fail):
    for name in ("zebra", "ant"):
        desk.installation.plugin(name, "class Plugin:\n    @hookimpl\n    def check(self):\n        return []\n")
    desk.append("\n[plugin.zebra]\n[plugin.ant]\n")
    folder = fail("step:5")
    loaded = engine.load_profile(folder / "profile.toml")
    assert [plugin.source.name for plugin in loaded.active] == [p.source.name for p in desk.load().active]
    assert engine.resume(folder).state == "finished"


class Gone(Silent):
    """A terminal that was closed, or a pipe whose reader has left."""

    def say(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    stage = step = close = say


def test_a_terminal_that_goes_away_does_not_end_the_run(desk):
    outcome = engine.run(desk.load(), display=Gone())
    assert outcome.state == "finished"


def test_observers_see_the_whole_run_once(desk, run):
    outcome = run()
    assert [event["resumed"] for event in desk.events("run_started")] == [False]
    assert [event["step"] for event in desk.events("on_step")] == list(range(1, 11))
    assert desk.events("run_ended") == [{"hook": "run_ended", "state": "finished", "reason": "", "step": outcome.step}]


def test_observers_are_told_of_every_evaluation(desk, run):
    desk.installation.plugin(
        "judge",
        """
        seen = {}
        class Plugin:
            @hookimpl
            def on_evaluation(self, step, metrics):
                seen[step] = metrics["eval_loss"]
        """,
    )
    folder = run(switch_on=["judge"]).folder
    lines = figures(folder)
    told = __import__("module_of_judge").seen
    assert told == {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert list(told) == [4, 8]


def test_the_same_profile_gives_the_same_figures_and_another_seed_does_not(run):
    first, second, other = run(), run(), run(sets=["run.seed=43"])
    assert first.folder != second.folder
    assert figures(first.folder) == figures(second.folder)
    assert figures(first.folder) != figures(other.folder)


def test_checking_makes_no_folder(desk):
    assert engine.check(desk.load(), report=print) == []
    assert desk.runs() == []


# -- a run that fails -----------------------------------------------------------------------------

PLACES = {
    "load_rows": 0,
    "load_processor": 0,
    "format_dataset": 0,
    "load_model": 0,
    "adapt": 0,
    "training_args": 0,
    "make_trainer": 0,
    "step:5": 3,
    "checkpoint:6": 3,
    "export": 10,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_anywhere_is_written_down_and_told_once(desk, fail, place):
    folder = fail(place)
    found = report(folder)
    assert (found["outcome"], found["step"]) == ("failed", PLACES[place])
    assert found["reason"] == f"light fault in {place}"
    assert desk.events("run_ended") == [
        {"hook": "run_ended", "state": "failed", "reason": f"light fault in {place}", "step": PLACES[place]}
    ]
    assert not is_locked(folder)
    assert not list((folder / "checkpoints").glob(".staging*"))


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_a_plugin_that_breaks_in_export_fails_the_run_by_name(desk, fail, kind):
    folder = fail("export", kind, PluginError)
    found = report(folder)
    assert found["outcome"] == "failed"
    assert found["reason"].startswith(f"plugin light_export (light-plugins 1.2) failed in export: {kind}: ")
    assert len(desk.events("run_ended")) == 1


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_a_trainer_that_breaks_fails_the_run(desk, fail, kind):
    folder = fail("step:5", kind, (PluginError, RunError))
    assert report(folder)["outcome"] == "failed"
    assert kind in report(folder)["reason"]
    assert len(desk.events("run_ended")) == 1


@pytest.mark.parametrize("hook", ["run_started", "on_step", "run_ended"])
@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "RunError"])
def test_a_broken_observer_changes_nothing_but_a_line_in_the_log(desk, run, monkeypatch, hook, kind):
    whole = figures(run().folder)
    desk.diary.unlink()
    monkeypatch.setenv("LIGHT_FAULT", f"{hook}={kind}")
    outcome = run()
    assert outcome.state == "finished"
    assert figures(outcome.folder) == whole
    log = (outcome.folder / "run.log").read_text()
    assert log.count("plugin light_diary (light-plugins 1.2) is left out for the rest of the run") == 1
    assert f"{hook} failed: {kind}" in log
    assert len(desk.events("run_ended")) == 1
    assert len(desk.events("on_step")) == {"run_started": 0, "on_step": 1, "run_ended": 10}[hook]


def test_a_failed_proof_fails_the_run_with_its_figure(desk, run):
    with pytest.raises(RunError) as caught:
        run(sets=["plugin.light_export.verdict=failed"])
    (folder,) = desk.runs()
    assert str(caught.value) == (
        f"export light: {folder}/exports/light.json does not answer like the model that was trained "
        "(difference 0.25); do not ship it"
    )
    assert caught.value.exit_code == ExitCode.RUN_FAILED == 1
    found = report(folder)
    assert found["outcome"] == "failed"
    assert found["exports"][0]["proof"]["verdict"] == "failed"


def test_an_export_that_could_not_be_proved_is_no_failure(run):
    outcome = run(sets=['plugin.light_export.verdict="not proved"'])
    assert outcome.state == "finished"
    assert report(outcome.folder)["exports"][0]["proof"]["verdict"] == "not proved"


def test_wrong_labels_never_reach_the_trainer(desk, run):
    with pytest.raises(RunError, match=r"rows.jsonl:\d+: the labels are wrong: the trained tokens read"):
        run(sets=["plugin.light_format.train_prompt=true"])
    (folder,) = desk.runs()
    assert not (folder / "metrics.jsonl").exists()
    assert report(folder)["outcome"] == "failed"


def test_no_rows_are_an_error_before_the_model_is_loaded(desk, run, display):
    desk.write("", "rows.jsonl")
    with pytest.raises(RunError, match="nothing to train on: the data has no rows"):
        run()
    assert "[3/7] loading model" not in display.lines


def test_a_profile_that_check_refuses_makes_no_folder(desk, run):
    with pytest.raises(ProfileError, match=r"data.path: no such file"):
        run(sets=["data.path=nowhere.jsonl"])
    assert desk.runs() == []


def test_a_disk_that_fills_at_the_end_still_tells_the_observers(desk, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftcore.session.write_report", full)
    with pytest.raises(OSError, match="No space left"):
        run()
    assert len(desk.events("run_ended")) == 1


# -- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["make_trainer", "step:1", "step:2", "step:5", "checkpoint:6", "step:10", "export"])
def test_a_run_that_failed_goes_on_to_the_same_end(desk, run, fail, display, place):
    whole = run()
    folder = fail(place)
    again = engine.resume(folder, display=display)
    assert (again.state, again.folder) == ("finished", folder)
    assert figures(folder) == figures(whole.folder)
    for name in ("adapter/weight.json", "exports/light.json", "checkpoints/step-000010/state.json"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert report(folder)["loss"] == report(whole.folder)["loss"]
    assert report(folder)["samples"] == report(whole.folder)["samples"]
    assert [event["resumed"] for event in desk.events("run_started")] == [False, False, True]
    assert len(read_manifest(folder).resumes) == 1
    assert len(desk.runs()) == 2


def test_a_run_can_fail_and_go_on_many_times(desk, run, fail, monkeypatch):
    whole = run()
    folder = fail("step:2")
    for place in ("step:4", "step:4", "step:7", "checkpoint:9", "export"):
        monkeypatch.setenv("LIGHT_FAULT", f"{place}=RunError")
        with pytest.raises(RunError):
            engine.resume(folder)
    monkeypatch.delenv("LIGHT_FAULT")
    engine.resume(folder)
    assert figures(folder) == figures(whole.folder)
    assert len(read_manifest(folder).resumes) == 6


def test_a_damaged_checkpoint_is_skipped_with_a_word_and_the_end_is_the_same(run, fail, display):
    whole = run()
    folder = fail("step:8")
    assert committed(folder) == [3, 6]
    (folder / "checkpoints" / "step-000006" / "state.json").write_text("{}")
    engine.resume(folder, display=display)
    assert "skipping checkpoint step-000006: state.json has changed since it was written" in display.lines
    assert "going on from the checkpoint of step 3" in display.lines
    assert figures(folder) == figures(whole.folder)


def test_without_a_good_checkpoint_a_run_begins_again(run, fail, display):
    whole = run()
    folder = fail("step:8")
    shutil.rmtree(folder / "checkpoints")
    engine.resume(folder, display=display)
    assert "going on from the start; no checkpoint was committed" in display.lines
    assert figures(folder) == figures(whole.folder)


def test_the_judgement_before_training_is_remembered(run, fail):
    folder = fail("step:8")
    before = read_manifest(folder)
    outcome = engine.resume(folder)
    assert outcome.loss_before == before.loss["before"] == 1.0
    assert outcome.samples[0].before == before.samples[0]["before"]


def test_a_finished_run_cannot_be_resumed(run):
    folder = run().folder
    with pytest.raises(RunError, match="has finished; to train on, pass"):
        engine.resume(folder)


def test_a_finished_run_trains_on_when_told_to_as_if_it_had_never_ended(run):
    longer = run(sets=["train.max_steps=14"])
    folder = run().folder
    with pytest.raises(ProfileError, match=r"train.max_steps: 10 -> 14"):
        engine.resume(folder, sets=["train.max_steps=14"])
    outcome = engine.resume(folder, sets=["train.max_steps=14"], allow_changes=True)
    assert (outcome.state, outcome.step) == ("finished", 14)
    assert figures(folder) == figures(longer.folder)
    assert report(folder)["loss"] == report(longer.folder)["loss"]


def test_a_run_that_was_stopped_early_trains_on_when_told_to(run):
    folder = run(sets=["plugin.light_diary.stop_at=5"]).folder
    sets = ["plugin.light_diary.stop_at=20", "train.max_steps=12"]
    assert engine.resume(folder, sets=sets, allow_changes=True).step == 12
    assert steps(folder) == list(range(1, 13))


def test_an_option_that_an_older_version_did_not_have_is_no_change(desk, fail):
    folder = fail("step:5")
    manifest = json.loads((folder / "manifest.json").read_text())
    profile = tomllib.loads((folder / "profile.toml").read_text())
    for settings in (manifest["settings"], profile):
        for table, name in (("run", "without"), ("train", "load_best"), ("train", "eval_samples")):
            del settings[table][name]
        del settings["plugin"]["light_export"]["verdict"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "profile.toml").write_text(tomli_w.dumps(profile))
    with pytest.raises(ProfileError) as caught:
        engine.resume(folder, sets=["train.eval_samples=3"])
    default = attrs.fields(TrainTable).eval_samples.default
    assert f"since the run began (train.eval_samples: {default} -> 3);" in str(caught.value)
    assert engine.resume(folder).state == "finished"
    assert read_manifest(folder).resumes[-1]["changes"] == []
    assert read_manifest(folder).settings["train"]["load_best"] is False


@pytest.mark.parametrize("name", ["nowhere", "desk"])
def test_what_is_no_run_cannot_be_resumed(desk, name):
    with pytest.raises(RunError, match=r"is no run folder: it has no manifest.json"):
        engine.resume(desk.folder.parent / name)


def test_a_run_in_use_cannot_be_resumed(fail):
    folder = fail("step:5")
    with engine.locked(folder), pytest.raises(RunError, match=f"is in use by pid {os.getpid()} on "):
        engine.resume(folder)
    assert engine.resume(folder).state == "finished"


def test_changed_data_is_refused_with_both_fingerprints(desk, fail):
    folder = fail("step:5")
    desk.write_rows(13)
    with pytest.raises(RunError, match=r"the data has changed since the run began \(fingerprint \w{12}, now \w{12}\)"):
        engine.resume(folder)
    assert report(folder)["outcome"] == "failed"
    desk.write_rows(12)
    assert engine.resume(folder).state == "finished"


def test_a_change_that_keeps_size_and_time_is_seen(desk, fail):
    folder = fail("step:5")
    path = desk.folder / "rows.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("3 is 9.", "3 is 8."))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(RunError, match="the data has changed"):
        engine.resume(folder)


def test_changed_data_is_allowed_on_request_and_recorded(desk, fail, display):
    folder = fail("step:5")
    before = read_manifest(folder).data["fingerprint"]
    desk.write_rows(13)
    assert engine.resume(folder, allow_changes=True, display=display).state == "finished"
    manifest = read_manifest(folder)
    assert manifest.resumes[-1]["data_changed_from"] == before != manifest.data["fingerprint"]
    assert any(line.startswith("warning: the data has changed") for line in display.lines)


def test_changed_weights_are_refused_or_recorded(fail, monkeypatch):
    folder = fail("step:5")
    monkeypatch.setenv("LIGHT_REVISION", "r2")
    with pytest.raises(RunError, match=r"the model has changed since the run began \(fingerprint r1, now r2\)"):
        engine.resume(folder)
    assert engine.resume(folder, allow_changes=True).state == "finished"
    assert read_manifest(folder).resumes[-1]["model_changed_from"] == "r1"


def test_a_changed_profile_is_refused_with_the_difference(fail):
    folder = fail("step:5")
    with pytest.raises(ProfileError) as caught:
        engine.resume(folder, sets=["train.max_steps=12", "plugin.light_trainer.shrink=0.5"])
    assert str(caught.value) == (
        "the profile has changed since the run began "
        "(plugin.light_trainer.shrink: 0.9 -> 0.5; train.max_steps: 10 -> 12); pass --allow-changes"
    )


def test_an_edited_profile_in_the_run_folder_is_a_change_too(fail):
    folder = fail("step:5")
    path = folder / "profile.toml"
    path.write_text(path.read_text().replace("max_steps = 10", "max_steps = 12"))
    with pytest.raises(ProfileError, match=r"train.max_steps: 10 -> 12"):
        engine.resume(folder)


def test_a_changed_profile_is_allowed_on_request_and_recorded(fail):
    folder = fail("step:5")
    outcome = engine.resume(folder, sets=["train.max_steps=12"], allow_changes=True)
    assert outcome.step == 12
    manifest = read_manifest(folder)
    assert manifest.resumes[-1]["changes"] == ["train.max_steps: 10 -> 12"]
    assert manifest.settings["train"]["max_steps"] == 12
    assert tomllib.loads((folder / "profile.toml").read_text())["train"]["max_steps"] == 12


def test_a_refused_resume_changes_nothing(desk, fail):
    folder = fail("step:5")

    def content():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    with pytest.raises(ProfileError):
        engine.resume(folder, sets=["train.max_steps=12"])
    assert content() == before


def test_data_that_is_refused_on_resume_costs_no_checkpoint(desk, fail):
    folder = fail("step:5")
    desk.write_rows(13)
    with pytest.raises(RunError):
        engine.resume(folder)
    assert committed(folder) == [3]


def test_a_run_with_a_hardware_profile_of_its_own_can_be_resumed(desk, fail, tmp_path, monkeypatch):
    desk.write("[train]\nmicro_batch_size = 4\n", "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    folder = fail("step:5")
    monkeypatch.chdir(tmp_path)
    assert engine.resume(folder).state == "finished"


def test_a_run_can_be_resumed_from_another_folder_and_by_a_relative_path(desk, fail, tmp_path, monkeypatch):
    folder = fail("step:5")
    monkeypatch.chdir(folder.parent)
    outcome = engine.resume(folder.relative_to(folder.parent))
    assert outcome.state == "finished"
    assert outcome.folder == folder


def test_a_run_of_which_the_name_is_the_profiles_keeps_its_name(desk, fail):
    desk.replace('name = "light"', "")
    desk.write(desk.profile.read_text(), "light-two.toml")
    folder = fail("step:5")
    assert engine.resume(folder).state == "finished"
    assert read_manifest(folder).name == "light"


BOARD = """\
@attrs.frozen
class Config:
    address: str = option("", help="where it is")

class Plugin:
    Config = Config
    def __init__(self, config):
        self.config = config
    @hookimpl
    def check(self):
        known = "hunter2" in self.config.address
        return [] if known else [Problem(key="plugin.board.address", message="has no login")]
"""


def test_a_login_in_an_address_is_kept_for_a_resume_where_only_its_user_can_read_it(desk, run, fail):
    login = "https://ann:hunter2@board.example/x"
    desk.installation.plugin("board", BOARD)
    folder = fail("step:5", sets=[f'plugin.board.address="{login}"'])
    assert engine.resume(folder).state == "finished"
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert [path.name for path, text in texts.items() if b"hunter2" in text] == ["profile.toml"]
    assert tomllib.loads((folder / "profile.toml").read_text())["plugin"]["board"]["address"] == login
    assert (folder / "profile.toml").stat().st_mode & 0o777 == 0o600
    assert read_manifest(folder).settings["plugin"]["board"]["address"] == "https://board.example/x"
    assert b"board.example" in texts[folder / "report.html"]
    assert (run().folder / "profile.toml").stat().st_mode & 0o777 != 0o600, "as any other file"


# -- stopping -------------------------------------------------------------------------------------


def test_a_request_to_stop_ends_training_and_the_run_goes_on_to_export(desk, run, display):
    outcome = run(sets=["plugin.light_diary.stop_at=5"])
    assert (outcome.state, outcome.step) == ("finished", 5)
    assert outcome.reason == "seen enough"
    assert committed(outcome.folder) == [3, 5]
    assert steps(outcome.folder) == [1, 2, 3, 4, 5]
    assert len(outcome.artifacts) == 1
    assert "stopped at step 5: seen enough" in display.lines
    assert report(outcome.folder)["outcome"] == "finished"


def test_a_run_that_was_stopped_early_and_failed_in_export_does_not_train_on(desk, fail):
    folder = fail("export", sets=["plugin.light_diary.stop_at=5"])
    outcome = engine.resume(folder)
    assert (outcome.state, outcome.step) == ("finished", 5)
    assert steps(folder) == [1, 2, 3, 4, 5]
    assert outcome.reason == report(folder)["reason"] == "seen enough"


def test_a_request_to_stop_at_the_last_step_stops_nothing(run, display):
    outcome = run(sets=["plugin.light_diary.stop_at=10"])
    assert (outcome.state, outcome.step, outcome.reason) == ("finished", 10, "")
    assert not any(line.startswith("stopped at") for line in display.lines)


def test_who_goes_back_behind_an_early_stop_trains_as_in_the_beginning(fail):
    folder = fail("export", sets=["plugin.light_diary.stop_at=5"])
    outcome = engine.resume(folder, checkpoint=3)
    assert (outcome.step, outcome.reason) == (5, "seen enough"), "it is asked to stop again"
    assert steps(folder) == [1, 2, 3, 4, 5]
    begun = [event.values["total_steps"] for event in read_events(folder / "events.jsonl") if event.kind == "started"]
    assert begun == [10, 10]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_while_training_commits_and_stops_and_a_resume_goes_on(desk, run, number, code):
    whole = run()
    desk.installation.plugin(
        "sender",
        f"""
        import os
        from pathlib import Path
        class Plugin:
            @hookimpl
            def on_step(self, run, step):
                if step.number == 5 and not run.resumed:
                    os.kill(os.getpid(), {int(number)})
        """,
    )
    before = set(desk.runs())
    with pytest.raises(Interrupted) as caught:
        run(switch_on=["sender"])
    assert caught.value.exit_code == code
    (folder,) = set(desk.runs()) - before
    found = report(folder)
    assert found["outcome"] == "stopped"
    assert found["reason"] == f"{number.name} received"
    assert found["exports"] == []
    assert not (folder / "exports").exists()
    stopped_at = committed(folder)[-1]
    assert stopped_at in (5, 6), "the step under way is finished"
    assert steps(folder)[-1] == found["step"] == stopped_at
    assert desk.events("run_ended")[-1]["state"] == "stopped"
    assert engine.resume(folder).state == "finished"
    assert figures(folder) == figures(whole.folder)


def test_a_signal_outside_training_stops_the_run_at_once(desk, run):
    desk.installation.plugin(
        "sender",
        """
        import os, signal, time
        class Plugin:
            @hookimpl
            def quantize(self, run):
                if not run.resumed:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(1)
        """,
    )
    with pytest.raises(Interrupted):
        run(switch_on=["sender"])
    (folder,) = desk.runs()
    assert report(folder)["outcome"] == "stopped"
    assert engine.resume(folder).state == "finished"


# -- launching ------------------------------------------------------------------------------------


@pytest.fixture
def launching(desk, monkeypatch):
    """The environment in which workers find the light plugins."""
    for name, value in desk.installation.env.items():
        monkeypatch.setenv(name, value)
    desk.append("\n[plugin.light_launch]\n")


def test_a_launcher_runs_the_worker_and_its_outcome_is_returned(desk, run, launching):
    outcome = run()
    assert outcome.state == "finished"
    assert outcome.step == 10
    assert steps(outcome.folder) == list(range(1, 11))
    assert len(outcome.artifacts) == 1
    assert outcome == read_manifest(outcome.folder).outcome(outcome.folder)


def test_a_worker_that_fails_fails_the_run_with_its_reason(desk, run, launching, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:5=RunError")
    with pytest.raises(RunError, match="light fault in step:5"):
        run()
    (folder,) = desk.runs()
    assert report(folder)["outcome"] == "failed"


def test_a_launcher_without_an_answer_goes_on_here(desk, run):
    desk.installation.plugin("shy", "class Plugin:\n    @hookimpl\n    def launch(self, run): ...\n")
    assert run(switch_on=["shy"]).state == "finished"


def test_the_worker_command_is_one_that_the_command_line_knows(tmp_path):
    command = worker_command(tmp_path)
    assert command[1:] == ["-m", "ftcore.cli", "worker", str(tmp_path)]
    assert "worker" in HIDDEN


def test_a_launched_run_goes_on_from_its_checkpoint(desk, run, launching, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    with pytest.raises(RunError):
        run()
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    assert engine.resume(folder).state == "finished"
    assert [event["resumed"] for event in desk.events("run_started")] == [False, True]
    trained = [event["step"] for event in desk.events("on_step")]
    assert trained == [*range(1, 8), *range(7, 11)]


def test_changes_that_are_allowed_are_allowed_to_the_workers_too(desk, run, launching, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    with pytest.raises(RunError):
        run()
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    desk.write_rows(13)
    assert engine.resume(folder, sets=["train.max_steps=12"], allow_changes=True).step == 12


@pytest.mark.parametrize("code", [75, 130])
def test_the_exit_code_of_interrupted_workers_is_passed_on(desk, run, code):
    desk.installation.plugin("ender", f"class Plugin:\n    @hookimpl\n    def launch(self):\n        return {code}\n")
    with pytest.raises(Interrupted) as caught:
        run(switch_on=["ender"])
    assert caught.value.exit_code == code


# -- runs in a list -------------------------------------------------------------------------------


def test_runs_are_listed_as_they_stand(desk, run, fail):
    finished, failed = run().folder, fail("step:5")
    attrs.evolve(read_manifest(failed), state=RunState.RUNNING).write(failed)  # as a kill leaves it
    found = {info.folder: info for info in list_runs(desk.folder / "runs")}
    assert (found[finished].state, found[finished].step) == ("finished", 10)
    assert (found[failed].state, found[failed].step, found[failed].total_steps) == ("interrupted", 4, 10)
    assert found[failed].loss is not None


def test_a_run_goes_on_from_the_checkpoint_that_is_asked_for(desk, run, fail, display):
    whole = figures(run().folder)
    folder = fail("step:8")
    assert engine.resume(folder, checkpoint=3, display=display).state == "finished"
    assert "going on from the checkpoint of step 3" in display.lines
    assert figures(folder) == whole


def test_a_checkpoint_that_is_not_there_is_refused_by_name(fail):
    folder = fail("step:8")
    with pytest.raises(RunError, match=r"no checkpoint of step 4 in .*; there are: 3, 6"):
        engine.resume(folder, checkpoint=4)


def test_the_python_api_does_the_same_in_three_lines(desk):
    from ftcore import load_profile, run

    outcome = run(load_profile(desk.profile))
    assert outcome.state == "finished"
    assert (outcome.folder / "report.json").is_file()
