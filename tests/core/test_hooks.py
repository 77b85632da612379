"""Every hook, one by one: it is documented, and a plugin gets exactly the arguments of its specification."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ftcore import engine
from ftcore.assembly import build_plugins
from ftcore.errors import PluginError
from ftcore.hookspecs import Hooks, Kind, hook_kinds
from ftcore.plugins import Plugins, implemented_hooks
from ftcore.values import (
    Artifact,
    Format,
    Ledger,
    Loaded,
    Notice,
    Outcome,
    Part,
    PreparedData,
    Proof,
    Quantization,
    Row,
    Rows,
    RowSource,
    RunState,
    Step,
    StopRequest,
    Verdict,
)

KINDS = {
    "check": Kind.ALL,
    "launch": Kind.AT_MOST_ONE,
    "share": Kind.AT_MOST_ONE,
    "run_started": Kind.OBSERVERS,
    "load_rows": Kind.EXACTLY_ONE,
    "load_processor": Kind.EXACTLY_ONE,
    "format_dataset": Kind.EXACTLY_ONE,
    "quantize": Kind.AT_MOST_ONE,
    "sketch_model": Kind.AT_MOST_ONE,
    "export_size": Kind.ALL,
    "load_model": Kind.EXACTLY_ONE,
    "adapt": Kind.AT_MOST_ONE,
    "training_args": Kind.ALL,
    "make_trainer": Kind.EXACTLY_ONE,
    "track": Kind.ALL,
    "on_step": Kind.OBSERVERS,
    "on_evaluation": Kind.OBSERVERS,
    "score": Kind.AT_MOST_ONE,
    "write_reference": Kind.AT_MOST_ONE,
    "export": Kind.ALL,
    "verify": Kind.ALL,
    "publish": Kind.ALL,
    "run_ended": Kind.OBSERVERS,
}

ARGUMENTS = {
    "check": ["run"],
    "launch": ["run", "command"],
    "share": ["run", "value"],
    "run_started": ["run", "settings"],
    "load_rows": ["run"],
    "load_processor": ["run", "rows"],
    "format_dataset": ["run", "rows", "processor"],
    "quantize": ["run"],
    "sketch_model": ["run"],
    "export_size": ["run", "parameters"],
    "load_model": ["run", "processor", "quantization"],
    "adapt": ["run", "loaded"],
    "training_args": ["run"],
    "make_trainer": ["run", "loaded", "data", "args"],
    "track": ["run", "settings", "sent"],
    "on_step": ["run", "step"],
    "on_evaluation": ["run", "step", "metrics"],
    "score": ["run", "predictions"],
    "write_reference": ["run", "loaded", "data", "folder"],
    "export": ["run", "loaded", "data", "saved", "exports"],
    "verify": ["run", "artifact", "reference"],
    "publish": ["run", "artifacts", "saved"],
    "run_ended": ["run", "outcome"],
}

ROW = Row(values={"a": 1}, origin="x:1")
ROWS = Rows(train=[ROW], validation=[], fingerprint="f")
LOADED = Loaded(model="m", processor="p", base="b")
QUANTIZATION = Quantization(name="q", options={})
FORMAT = Format(encode=list, collate=dict, processor="p", end_of_turn=1)
DATA = PreparedData(
    train=[],
    validation=[],
    lengths=[],
    collate=dict,
    ledger=Ledger(rows=0, trained=0, held_out=0),
    end_of_turn=1,
)
STEP = Step(number=1, total=2, epoch=0.5, metrics={})
OUTCOME = Outcome(state=RunState.FINISHED, folder=Path("f"))
ARTIFACT = Artifact(kind="k", path=Path("p"), proof=Proof(verdict=Verdict.PROVED))
STOP, NOTICE = StopRequest(reason="enough"), Notice(sign="loss-rising", text="it rises")
SAVED, EXPORTS = Path("saved"), Path("exports")


@pytest.fixture
def only(desk):
    """One plugin that implements one hook: its first call's arguments land in `calls`."""

    def make(hook, answer):
        names = ARGUMENTS[hook]
        desk.installation.plugin(
            "fake",
            f"""
            calls = []
            answer = None
            class Plugin:
                @hookimpl
                def {hook}(self, {", ".join(names)}):
                    calls.append(dict({", ".join(f"{name}={name}" for name in names)}))
                    return answer
            """,
        )
        loaded = desk.load(switch_on=["fake"])
        module = __import__("module_of_fake")
        module.answer = answer
        active = [plugin for plugin in loaded.active if plugin.source.name == "fake"]
        plugins, _ = build_plugins(active, report=pytest.fail)
        return plugins, engine.planned(loaded), module.calls

    return make


def test_the_hooks_are_these_in_calling_order():
    assert hook_kinds() == KINDS
    assert list(hook_kinds()) == list(KINDS)


@pytest.mark.parametrize("hook", KINDS)
def test_every_hook_is_documented_typed_and_has_no_defaults(hook):
    function = getattr(Hooks, hook)
    assert len(inspect.getdoc(function) or "") > 30
    signature = inspect.signature(function)
    assert list(signature.parameters)[1:] == ARGUMENTS[hook]
    for parameter in list(signature.parameters.values())[1:]:
        assert parameter.default is inspect.Parameter.empty
        assert parameter.annotation is not inspect.Parameter.empty
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("hook", KINDS)
def test_plugins_has_a_method_for_every_hook_with_the_same_arguments(hook):
    method = getattr(Plugins, hook)
    assert list(inspect.signature(method).parameters)[1:] == ARGUMENTS[hook]
    assert inspect.getdoc(method)


def test_implemented_hooks_come_in_calling_order(only):
    class Plugin:
        def helper(self): ...

    assert implemented_hooks(Plugin) == []
    only("export", None)
    assert implemented_hooks(__import__("module_of_fake").Plugin) == ["export"]


def test_check(only):
    plugins, run, calls = only("check", [])
    assert plugins.check(run) == []
    assert calls == [{"run": run}]
    assert not run.folder.exists()


def test_launch(only):
    plugins, run, calls = only("launch", 7)
    assert plugins.launch(run, ["python", "x"]) == 7
    assert calls == [{"run": run, "command": ["python", "x"]}]


def test_share(only):
    plugins, run, calls = only("share", "runs/one")
    assert plugins.share(run, None) == "runs/one"
    assert calls == [{"run": run, "value": None}]


def test_share_needs_a_plugin_that_answers(only):
    plugins, run, _ = only("share", None)
    with pytest.raises(PluginError, match="share: fake must return str, got NoneType"):
        plugins.share(run, "runs/one")


def test_run_started(only):
    plugins, run, calls = only("run_started", "an answer that nobody wants")
    assert plugins.run_started(run, {"train": {}}) is None
    assert calls == [{"run": run, "settings": {"train": {}}}]


def test_load_rows(only):
    plugins, run, calls = only("load_rows", [ROW])
    assert plugins.load_rows(run) == RowSource(parts=(Part(rows=[ROW]),))
    assert calls == [{"run": run}]


def test_load_rows_may_answer_with_a_source(only):
    source = RowSource(parts=(), fingerprint="f")
    plugins, run, _ = only("load_rows", source)
    assert plugins.load_rows(run) is source


@pytest.mark.parametrize(("answer", "kind"), [(7, "int"), (iter([ROW]), "list_iterator")])
def test_load_rows_must_answer_with_rows(only, answer, kind):
    plugins, run, _ = only("load_rows", answer)
    with pytest.raises(PluginError, match=f"load_rows: fake must return RowSource or a sequence of rows, got {kind}"):
        plugins.load_rows(run)


def test_load_processor(only):
    processor = object()
    plugins, run, calls = only("load_processor", processor)
    assert plugins.load_processor(run, ROWS) is processor
    assert calls == [{"run": run, "rows": ROWS}]


def test_format_dataset(only):
    plugins, run, calls = only("format_dataset", FORMAT)
    assert plugins.format_dataset(run, ROWS, "processor") is FORMAT
    assert calls == [{"run": run, "rows": ROWS, "processor": "processor"}]


def test_quantize(only):
    plugins, run, calls = only("quantize", QUANTIZATION)
    assert plugins.quantize(run) is QUANTIZATION
    assert calls == [{"run": run}]


def test_sketch_model(only):
    plugins, run, calls = only("sketch_model", LOADED)
    assert plugins.sketch_model(run) is LOADED
    assert calls == [{"run": run}]


def test_sketch_model_may_be_missing(only):
    plugins, run, _ = only("sketch_model", None)
    assert plugins.sketch_model(run) is None


def test_load_model(only):
    plugins, run, calls = only("load_model", LOADED)
    assert plugins.load_model(run, "processor", QUANTIZATION) is LOADED
    assert calls == [{"run": run, "processor": "processor", "quantization": QUANTIZATION}]


def test_adapt(only):
    adapted = Loaded(model="n", processor="p", base="b", adapter="lora")
    plugins, run, calls = only("adapt", adapted)
    assert plugins.adapt(run, LOADED) is adapted
    assert calls == [{"run": run, "loaded": LOADED}]


def test_adapt_without_an_answer_leaves_the_model_as_it_was(only):
    plugins, run, _ = only("adapt", None)
    assert plugins.adapt(run, LOADED) is LOADED


def test_training_args(only):
    plugins, run, calls = only("training_args", {"fsdp": True})
    assert plugins.training_args(run) == {"fsdp": True}
    assert calls == [{"run": run}]


class Idle:
    """As much of a trainer as the hook looks at."""

    def train(self, control, checkpoint): ...


def test_make_trainer(only):
    trainer = Idle()
    plugins, run, calls = only("make_trainer", trainer)
    assert plugins.make_trainer(run, LOADED, DATA, {"a": 1}) is trainer
    assert calls == [{"run": run, "loaded": LOADED, "data": DATA, "args": {"a": 1}}]


def test_on_step(only):
    plugins, run, calls = only("on_step", STOP)
    assert plugins.on_step(run, STEP) == [STOP]
    assert calls == [{"run": run, "step": STEP}]


@pytest.mark.parametrize(
    ("answer", "told"), [(None, []), (NOTICE, [NOTICE]), ((NOTICE, STOP), [NOTICE, STOP]), ([], [])]
)
def test_observers_tell_and_ask_for_a_stop_and_nothing_else_is_taken_for_either(only, answer, told):
    plugins, run, _ = only("on_step", answer)
    assert plugins.on_step(run, STEP) == told


def test_on_evaluation(only):
    plugins, run, calls = only("on_evaluation", [NOTICE, STOP])
    assert plugins.on_evaluation(run, 4, {"eval_loss": 0.5}) == [NOTICE, STOP]
    assert calls == [{"run": run, "step": 4, "metrics": {"eval_loss": 0.5}}]


class Sends:
    """As much of a tracker as is looked at."""

    def send(self, points): ...


def test_track(only):
    tracker = Sends()
    plugins, run, calls = only("track", tracker)
    assert plugins.track(run, {"train": {}}, 7) is tracker
    assert calls == [{"run": run, "settings": {"train": {}}, "sent": 7}]


@pytest.mark.parametrize("answer", [None, "soon"])
def test_a_tracker_is_something_that_sends(only, answer):
    plugins, run, _ = only("track", answer)
    with pytest.raises(PluginError, match=f"track: fake must return Tracker, got {type(answer).__name__}"):
        plugins.track(run, {}, 0)


def test_a_tracker_is_asked_alone(desk):
    for name in ("one", "two"):
        desk.installation.plugin(
            name,
            f"""
            class Plugin:
                name = "{name}"
                def send(self, points): ...
                @hookimpl
                def track(self):
                    return self
            """,
        )
    loaded = desk.load(switch_on=["one", "two"])
    plugins, _ = build_plugins(loaded.active, report=pytest.fail)
    assert plugins.implementers("track") == ["one", "two"]
    assert plugins.alone("two").track(engine.planned(loaded), {}, 0).name == "two"


def test_score(only):
    plugins, run, calls = only("score", {"accuracy": 0.5})
    assert plugins.score(run, []) == {"accuracy": 0.5}
    assert calls == [{"run": run, "predictions": []}]


def test_export_size(only):
    plugins, run, calls = only("export_size", 7)
    assert plugins.export_size(run, 100) == {"fake": 7}
    assert calls == [{"run": run, "parameters": 100}]


def test_export_size_may_stay_unknown(only):
    plugins, run, _ = only("export_size", None)
    assert plugins.export_size(run, 100) == {}


def test_export_size_is_a_number(only):
    plugins, run, _ = only("export_size", "much")
    with pytest.raises(PluginError, match="export_size: fake must return int, got str"):
        plugins.export_size(run, 100)


@pytest.mark.parametrize("data", [DATA, None])
def test_write_reference(only, data):
    plugins, run, calls = only("write_reference", "an answer that nobody wants")
    assert plugins.write_reference(run, LOADED, data, SAVED) is None
    assert calls == [{"run": run, "loaded": LOADED, "data": data, "folder": SAVED}]


def test_export(only):
    plugins, run, calls = only("export", ARTIFACT)
    assert list(plugins.export(run, LOADED, DATA, saved=SAVED, exports=EXPORTS)) == [ARTIFACT]
    assert calls == [{"run": run, "loaded": LOADED, "data": DATA, "saved": SAVED, "exports": EXPORTS}]


@pytest.mark.parametrize(("answer", "count"), [(None, 0), ([], 0), ([ARTIFACT, ARTIFACT], 2)])
def test_export_answers_with_any_number_of_artifacts(only, answer, count):
    plugins, run, _ = only("export", answer)
    assert list(plugins.export(run, LOADED, DATA, saved=SAVED, exports=EXPORTS)) == [ARTIFACT] * count


def test_verify(only):
    proof = Proof(verdict=Verdict.FAILED, figures={"kl": 2})
    plugins, run, calls = only("verify", proof)
    assert plugins.verify(run, ARTIFACT, SAVED) == proof
    assert calls == [{"run": run, "artifact": ARTIFACT, "reference": SAVED}]


def test_verify_without_an_answer_is_no_proof(only):
    plugins, run, _ = only("verify", None)
    assert plugins.verify(run, ARTIFACT, SAVED) is None


def test_a_proof_is_more_than_yes(only):
    plugins, run, _ = only("verify", True)
    with pytest.raises(PluginError, match="verify: fake must return Proof, got bool"):
        plugins.verify(run, ARTIFACT, SAVED)


def test_publish(only):
    plugins, run, calls = only("publish", "hub://a")
    assert list(plugins.publish(run, [ARTIFACT], SAVED)) == ["hub://a"]
    assert calls == [{"run": run, "artifacts": [ARTIFACT], "saved": SAVED}]


def test_run_ended(only):
    plugins, run, calls = only("run_ended", None)
    assert plugins.run_ended(run, OUTCOME) is None
    assert calls == [{"run": run, "outcome": OUTCOME}]


def test_a_plugin_names_only_the_arguments_that_it_needs(desk):
    desk.installation.plugin(
        "lazy",
        """
        seen = []
        class Plugin:
            @hookimpl
            def export(self, saved):
                seen.append(saved)
            @hookimpl
            def run_ended(self):
                seen.append("ended")
        """,
    )
    loaded = desk.load(switch_on=["lazy"])
    plugins, _ = build_plugins([p for p in loaded.active if p.source.name == "lazy"], report=pytest.fail)
    list(plugins.export(engine.planned(loaded), LOADED, DATA, saved=SAVED, exports=EXPORTS))
    plugins.run_ended(engine.planned(loaded), OUTCOME)
    assert __import__("module_of_lazy").seen == [SAVED, "ended"]


def test_exports_are_written_one_after_another(desk):
    """The engine notes each artifact before the next one is begun, so that a kill loses one at most."""
    for name in ("one", "two"):
        desk.installation.plugin(
            name,
            f"""
            class Plugin:
                @hookimpl
                def export(self, saved):
                    with saved.open("a") as file:
                        file.write("{name} ")
                    return Artifact(kind="{name}", path=saved, proof=Proof(verdict=Verdict.PROVED))
            """,
        )
    loaded = desk.load(switch_on=["one", "two"], switch_off=["light_export"])
    plugins, _ = build_plugins(loaded.active, report=pytest.fail)
    log = desk.folder / "log"
    artifacts = plugins.export(engine.planned(loaded), LOADED, DATA, saved=log, exports=EXPORTS)
    assert next(artifacts).kind == "one"
    assert log.read_text() == "one "
    assert next(artifacts).kind == "two"
    assert log.read_text() == "one two "
    assert list(artifacts) == []


def test_a_trainer_is_something_that_trains(only):
    plugins, run, _ = only("make_trainer", "soon")
    with pytest.raises(PluginError, match=r"make_trainer: fake must return Trainer, got str"):
        plugins.make_trainer(run, LOADED, DATA, {})


def test_an_artifact_has_a_verdict(only):
    great = Artifact(kind="x", path=Path("x"), proof=Proof(verdict="great"))
    plugins, run, _ = only("export", great)
    with pytest.raises(PluginError, match=r"export: fake must return Verdict, got str"):
        list(plugins.export(run, LOADED, DATA, saved=SAVED, exports=EXPORTS))
