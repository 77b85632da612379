"""An observer cannot hurt a run: whatever it does is reported once, and the others go on."""

from __future__ import annotations

import threading
import time

import pytest

from ftcore import engine
from ftcore.assembly import build_plugins
from ftcore.discovery import discover
from ftcore.errors import ExitCode, Interrupted, PluginError
from ftcore.isolation import Observer, Traced, name_failures, trace
from ftcore.values import Outcome, RunState, Step, StopRequest

STEP = Step(number=1, total=2, epoch=0.5, metrics={})


@pytest.fixture
def source(installation):
    installation.plugin("shaky", "class Plugin: ...")
    return discover().find("shaky")


@pytest.fixture
def reports():
    return []


@pytest.fixture
def observer(source, reports):
    return Observer(source, reports.append, seconds=0.2)


def raises(error):
    def function(*arguments):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("bad day"), "ValueError: bad day"),
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (TimeoutError("no network"), "no network"),
        (PluginError("own words"), "PluginError: own words"),
        (MemoryError(), "MemoryError: "),
        (GeneratorExit(), "GeneratorExit: "),
    ],
)
def test_an_observer_that_raises_is_reported_once_and_left_out(observer, reports, error, cause):
    calls = []
    fails = observer.guard("on_step", raises(error))
    works = observer.guard("run_started", calls.append)
    assert fails("step") is None
    assert fails("step") is None
    assert works("start") is None
    assert calls == []
    assert reports == [f"plugin shaky (dist-shaky 1.0) is left out for the rest of the run: on_step failed: {cause}"]


def test_an_observer_that_hangs_costs_its_time_once(observer, reports):
    release = threading.Event()
    hangs = observer.guard("on_step", lambda step: release.wait(10))
    start = time.monotonic()
    for _ in range(5):
        assert hangs("step") is None
    assert time.monotonic() - start < 1
    release.set()
    assert reports == [
        "plugin shaky (dist-shaky 1.0) is left out for the rest of the run: on_step failed: no answer within 0.2 s"
    ]


@pytest.mark.parametrize("fault", [raises(ValueError("bad")), raises(SystemExit(1)), lambda step: time.sleep(2)])
def test_run_ended_still_reaches_an_observer_that_was_left_out(observer, reports, fault):
    ended = []
    observer.guard("on_step", fault)("step")
    assert observer.guard("run_ended", ended.append)("outcome") is None
    assert ended == ["outcome"]
    assert len(reports) == 1


def test_a_run_ended_that_fails_too_stops_nobody(observer):
    observer.guard("on_step", raises(ValueError("bad")))("step")
    assert observer.guard("run_ended", raises(SystemExit(0)))("outcome") is None


def test_answers_come_through(observer):
    request = StopRequest(reason="enough")
    assert observer.guard("on_step", lambda step: request)("step") is request


@pytest.mark.parametrize(
    ("answer", "kind"), [(5, "int"), ("stop", "str"), ([StopRequest(reason="a"), None], "NoneType")]
)
def test_an_answer_that_nobody_could_use_is_told(observer, reports, answer, kind):
    assert observer.guard("on_step", lambda step: answer)("step") is None
    (report,) = reports
    assert report.endswith(f"must return StopRequest, Notice, several of them or nothing, got {kind}")


def test_an_observer_is_called_apart_from_the_run_always_in_the_same_thread(observer):
    threads = []
    for hook in ("run_started", "on_step", "run_ended"):
        observer.guard(hook, lambda *_: threads.append(threading.current_thread()))()
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon, "a hanging one must not keep the process alive"


def test_a_request_to_end_the_run_is_not_taken_for_a_fault(observer, reports):
    stop = Interrupted("SIGTERM received", ExitCode.RESUMABLE)
    with pytest.raises(Interrupted):
        observer.guard("on_step", raises(stop))("step")
    assert reports == []


def test_an_observer_is_cheap(observer):
    call = observer.guard("on_step", lambda step: None)
    call("warm")
    start = time.perf_counter()
    for _ in range(200):
        call("step")
    assert (time.perf_counter() - start) / 200 < 0.005


# -- through the hooks ----------------------------------------------------------------------------

SHAKY = """
class Plugin:
    @hookimpl
    def run_started(self): ...
    @hookimpl
    def on_step(self, step):
        {statement}
    @hookimpl
    def run_ended(self, outcome):
        ended.append(outcome.state)
ended = []
"""


@pytest.mark.parametrize("statement", ["raise ValueError('bad')", "raise SystemExit(0)", "raise KeyboardInterrupt"])
def test_other_observers_go_on(desk, reports, statement):
    desk.installation.plugin("shaky", SHAKY.format(statement=statement))
    desk.installation.plugin("steady", SHAKY.format(statement="return StopRequest(reason='steady')"))
    loaded = desk.load(switch_on=["shaky", "steady"])
    plugins, _ = build_plugins(loaded.active, report=reports.append)
    run = engine.planned(loaded)
    plugins.run_started(run, {"run": {"seed": 1}})
    for _ in range(3):
        assert plugins.on_step(run, STEP) == [StopRequest(reason="steady")]
    plugins.run_ended(run, Outcome(state=RunState.FINISHED, folder=run.folder))
    assert len(reports) == 1
    assert "plugin shaky (dist-shaky 1.0)" in reports[0]
    assert __import__("module_of_shaky").ended == ["finished"]
    assert __import__("module_of_steady").ended == ["finished"]
    assert len(desk.events("on_step")) == 3


def test_every_request_to_stop_is_heard_in_order(desk, reports):
    for name in ("first", "second"):
        desk.installation.plugin(name, SHAKY.format(statement=f"return StopRequest(reason='{name}')"))
    loaded = desk.load(switch_on=["first", "second"])
    plugins, _ = build_plugins(loaded.active, report=reports.append)
    requests = plugins.on_step(engine.planned(loaded), STEP)
    assert requests == [StopRequest(reason="first"), StopRequest(reason="second")], "in profile order"


# -- names and traces -----------------------------------------------------------------------------


def test_name_failures_leaves_answers_alone(source):
    assert name_failures(source, "quantize", lambda run: run + 1)(1) == 2


def test_a_trace_has_every_call_its_time_and_whether_it_answered(source):
    traced: list[Traced] = []
    trace(source, "quantize", lambda: time.sleep(0.02), traced.append)()
    trace(source, "adapt", lambda: 5, traced.append)()
    with pytest.raises(ValueError, match="bad"):
        trace(source, "export", raises(ValueError("bad")), traced.append)()
    assert [(call.hook, call.plugin, call.answered) for call in traced] == [
        ("quantize", "shaky", False),
        ("adapt", "shaky", True),
        ("export", "shaky", False),
    ]
    assert traced[0].seconds >= 0.02
    assert traced[1].seconds < 0.02


def test_every_call_of_a_run_is_traced(desk):
    traced: list[Traced] = []
    outcome = engine.run(desk.load(), record=traced.append)
    assert outcome.state == "finished"
    called = {(call.hook, call.plugin) for call in traced}
    assert called >= {
        ("check", "light_rows"),
        ("load_rows", "light_rows"),
        ("format_dataset", "light_format"),
        ("load_model", "light_model"),
        ("adapt", "light_model"),
        ("training_args", "light_trainer"),
        ("make_trainer", "light_trainer"),
        ("export", "light_export"),
        ("run_started", "light_diary"),
        ("on_step", "light_diary"),
        ("run_ended", "light_diary"),
    }
    assert sum(call.hook == "on_step" for call in traced) == 10


def test_an_observer_that_is_always_slow_is_left_out(monkeypatch, source):
    monkeypatch.setattr("ftcore.isolation.SLOW_SECONDS", 0.1)
    said = []
    slow = Observer(source, said.append).guard("on_step", lambda: time.sleep(0.03))
    for _ in range(8):
        slow()
    (report,) = said
    assert "is left out for the rest of the run: on_step failed: it took over 10% of the time" in report


def test_an_observer_that_is_slow_for_its_own_time_only_stays(monkeypatch, source):
    monkeypatch.setattr("ftcore.isolation.SLOW_SECONDS", 0.02)
    monkeypatch.setattr("ftcore.isolation.SLOW_SHARE", 0.9)
    said = []
    brief = Observer(source, said.append).guard("on_step", lambda: time.sleep(0.001))
    for _ in range(30):
        brief()
        time.sleep(0.03)
    assert said == []
