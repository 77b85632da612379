"""The plugins of one run: order, slots, fallbacks, wrappers, and a name on every failure."""

from __future__ import annotations

import pytest

from ftcore import engine
from ftcore.assembly import build_plugins
from ftcore.cli.plugins import describe
from ftcore.discovery import discover
from ftcore.errors import ExitCode, PluginError, Problem, ProfileError, RunError
from ftcore.preflight import check_profile


@pytest.fixture
def build(desk):
    """The plugins of the profile, once more plugins are switched on; `said` collects reports."""

    def make(*names, **options):
        loaded = desk.load(switch_on=names, **options)
        plugins, problems = build_plugins(loaded.active, report=options.get("report", print))
        assert problems == []
        return plugins

    return make


@pytest.fixture
def run(desk):
    return engine.planned(desk.load())


def answering(hook: str, expression: str, arguments: str = "") -> str:
    """Source of a plugin whose `hook` answers with `expression`."""
    return f"class Plugin:\n    @hookimpl\n    def {hook}(self, {arguments}):\n        return {expression}\n"


def raising(hook: str, statement: str) -> str:
    return f"class Plugin:\n    @hookimpl\n    def {hook}(self):\n        {statement}\n"


# -- order ----------------------------------------------------------------------------------------


def test_the_first_plugin_of_the_profile_is_called_first(desk, build, run):
    for name in ("zebra", "middle", "ant"):
        desk.installation.plugin(name, answering("check", f"[Problem(message='{name}')]"))
    desk.append("\n[plugin.zebra]\n[plugin.middle]\n[plugin.ant]\n")
    plugins = build()
    assert plugins.implementers("check") == ["light_rows", "zebra", "middle", "ant"]
    assert [problem.message for problem in plugins.check(run)] == ["zebra", "middle", "ant"]


def test_plugins_of_the_command_line_come_last(desk, build):
    desk.installation.plugin("late", answering("check", "[]"))
    assert build("late").implementers("check") == ["light_rows", "late"]


def test_fallbacks_come_last_of_all(desk, build):
    desk.installation.plugin("aaa", answering("check", "[]"), fallback=True)
    desk.installation.plugin("late", answering("check", "[]"))
    assert build("late").implementers("check") == ["light_rows", "late", "aaa"]


# -- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            answering("on_stepp", "None"),
            "implements an unknown hook 'on_stepp'; did you mean 'on_step'?",
        ),
        (answering("zzz", "None"), "implements an unknown hook 'zzz'; there are adapt, check, "),
        (
            answering("check", "[]", "run=None"),
            "gives run a default in check; hook arguments have none",
        ),
        (answering("check", "[]", "rnu"), "does not fit its hooks: check has no argument 'rnu'; did you mean 'run'?"),
        (
            answering("on_step", "None", "run, step, loaded"),
            "does not fit its hooks: on_step has no argument 'loaded'; there are run, step",
        ),
        (
            "class Plugin:\n    def __init__(self, config): ...\n",
            "cannot be built: its constructor is given nothing, as it has no Config: missing a required argument",
        ),
        (
            "@attrs.frozen\nclass Config: ...\nclass Plugin:\n    Config = Config\n",
            "cannot be built: its constructor is given its Config alone: too many positional arguments",
        ),
        (
            "class Plugin:\n    @hookimpl(wrapper=True)\n    def load_model(self): return 1\n",
            "wraps load_model without a yield, at which the wrapped plugin is asked",
        ),
    ],
)
def test_a_hook_that_does_not_fit_names_the_plugin(desk, build, source, said):
    desk.installation.plugin("odd", source)
    with pytest.raises(PluginError) as caught:
        build("odd")
    assert str(caught.value).startswith(f"plugin odd (dist-odd 1.0) {said}") or said in str(caught.value)
    assert str(caught.value).startswith("plugin odd (dist-odd 1.0)")
    assert caught.value.exit_code == ExitCode.PLUGIN
    facts = describe(discover(), discover().find("odd"))
    assert (facts["state"], facts["reason"]) == ("broken", str(caught.value))


def test_all_that_does_not_fit_is_named_at_once(desk, build):
    desk.installation.plugin("odd", answering("check", "[]", "rnu") + answering("on_stpe", "None").partition("\n")[2])
    with pytest.raises(PluginError, match=r"did you mean 'run'\?; implements an unknown hook 'on_stpe'"):
        build("odd")


def test_an_optional_hook_of_a_later_version_is_let_through(desk, build):
    desk.installation.plugin(
        "modern", "class Plugin:\n    @hookimpl(optionalhook=True)\n    def from_the_future(self): ...\n"
    )
    assert build("modern").implementers("check") == ["light_rows"]


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("raise ValueError('no key')", "ValueError: no key"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys; sys.exit()", "SystemExit: "),
    ],
)
def test_a_constructor_that_raises_names_the_plugin(desk, build, statement, cause):
    source = f"""
        @attrs.frozen
        class Config: ...
        class Plugin:
            Config = Config
            def __init__(self, config):
                {statement}
    """
    desk.installation.plugin("odd", source)
    with pytest.raises(PluginError) as caught:
        build("odd")
    assert str(caught.value) == f"plugin odd (dist-odd 1.0) cannot be built: {cause}"


def test_a_plugin_gets_its_config_and_one_without_options_needs_no_constructor(desk, build, run):
    desk.installation.plugin(
        "sized",
        """
        @attrs.frozen
        class Config:
            size: int = option(3, help="size")
        class Plugin:
            Config = Config
            def __init__(self, config):
                self.config = config
            @hookimpl
            def check(self):
                return [Problem(message=f"size {self.config.size}")]
        """,
    )
    desk.installation.plugin("bare", answering("check", "[Problem(message='bare')]"))
    plugins = build("sized", "bare", sets=["plugin.sized.size=5"])
    assert {problem.message for problem in plugins.check(run)} == {"size 5", "bare"}


# -- slots ----------------------------------------------------------------------------------------


def conflicts(desk, **options) -> list[str]:
    loaded = desk.load(**options)
    with pytest.raises(ProfileError) as caught:
        check_profile(loaded, engine.planned(loaded), report=print)
    return [str(problem).replace(f"{desk.folder}/", "") for problem in caught.value.problems]


def test_two_plugins_in_a_slot_are_one_sentence_with_the_line_of_the_later(desk):
    desk.installation.plugin("rival", answering("format_dataset", "None"))
    desk.append("\n[plugin.rival]\n")
    line = desk.profile.read_text().split("\n").index("[plugin.rival]") + 1
    assert conflicts(desk) == [
        f"light.toml:{line}: plugin.rival: format_dataset is implemented by light_format and rival; keep one"
    ]


def test_every_slot_conflict_is_reported_at_once(desk):
    for hook in ("adapt", "load_rows", "make_trainer"):
        desk.installation.plugin(f"rival_{hook}", answering(hook, "None"))
    found = conflicts(desk, switch_on=["rival_adapt", "rival_load_rows", "rival_make_trainer"])
    assert [text.split()[1] for text in found] == ["adapt", "load_rows", "make_trainer"]


def test_an_empty_slot_that_must_be_filled_is_named(desk):
    found = conflicts(desk, switch_off=["light_trainer", "light_model"])
    assert [text.partition(" plugin: ")[2] for text in found] == [
        "no plugin implements load_model; switch one on that does",
        "no plugin implements make_trainer; switch one on that does",
    ]


def test_slots_that_may_stay_empty(desk, build, run):
    plugins = build(switch_off=["light_export"])
    assert plugins.quantize(run) is None
    assert plugins.launch(run, ["true"]) is None
    assert plugins.score(run, []) == {}


# -- fallbacks ------------------------------------------------------------------------------------

FALLBACK = """
class Plugin:
    @hookimpl
    def check(self):
        return [Problem(message="the fallback was asked")]
    @hookimpl(trylast=True)
    def load_rows(self):
        return [Row(values={}, origin="the fallback")]
"""


def test_a_fallback_fills_the_slot_that_nobody_else_does(desk, build, run):
    desk.installation.plugin("plain", FALLBACK, fallback=True)
    plugins = build(switch_off=["light_rows"])
    assert [row.origin for row in plugins.load_rows(run).parts[0].rows] == ["the fallback"]
    assert [problem.message for problem in plugins.check(run)] == ["the fallback was asked"]


def test_a_fallback_that_yields_is_not_even_asked_to_check(desk, build, run):
    desk.installation.plugin("plain", FALLBACK, fallback=True)
    plugins = build()
    assert plugins.implementers("load_rows") == ["light_rows"]
    assert plugins.check(run) == []


def test_a_fallback_keeps_the_slots_that_are_still_empty(desk, build, run):
    source = FALLBACK + "    @hookimpl(trylast=True)\n    def quantize(self):\n        return None\n"
    desk.installation.plugin("plain", source, fallback=True)
    plugins = build()
    assert "plain" in plugins.implementers("quantize")
    assert plugins.load_rows(run).parts[0].rows[0].origin == "rows.jsonl:1", "the named plugin goes first"


def test_a_fallback_sketches_no_model_that_another_plugin_loads(desk, build, run):
    source = """
class Plugin:
    @hookimpl(trylast=True)
    def load_model(self):
        raise AssertionError
    @hookimpl(trylast=True)
    def sketch_model(self):
        raise AssertionError
"""
    desk.installation.plugin("plain", source, fallback=True)
    assert build().implementers("sketch_model") == []


def test_a_fallback_that_the_profile_names_is_configured_by_its_table(desk):
    source = """
        @attrs.frozen
        class Config:
            size: int = option(1, help="size")
        class Plugin:
            Config = Config
            def __init__(self, config): ...
    """
    desk.installation.plugin("plain", source, fallback=True)
    (active,) = [plugin for plugin in desk.load().active if plugin.source.name == "plain"]
    assert (active.fallback, active.config.size) == (True, 1)
    loaded = desk.load(sets=["plugin.plain.size=2"])
    (active,) = [plugin for plugin in loaded.active if plugin.source.name == "plain"]
    assert (active.fallback, active.config.size) == (False, 2)
    assert "plain" in loaded.settings()["plugin"]


def test_a_named_fallback_is_a_plugin_like_any_other(desk):
    desk.installation.plugin("plain", FALLBACK, fallback=True)
    found = conflicts(desk, switch_on=["plain"])
    assert "plugin.plain: load_rows is implemented by light_rows and plain; keep one" in found


def test_a_mark_does_not_make_a_fallback(desk, build, run):
    """Order and slots follow the profile and the metadata, not `trylast`."""
    desk.installation.plugin("modest", answering("load_rows", "[]").replace("@hookimpl", "@hookimpl(trylast=True)"))
    assert conflicts(desk, switch_on=["modest"]) == [
        "plugin.modest: load_rows is implemented by light_rows and modest; keep one"
    ]


def test_two_fallbacks_in_one_slot_must_be_decided(desk):
    for name in ("plain", "simple"):
        desk.installation.plugin(name, FALLBACK, fallback=True)
    found = conflicts(desk, switch_off=["light_rows"])
    said = "light.toml:17: plugin: load_rows has the fallbacks plain and simple; name one of them in the profile"
    assert said in found


def test_a_fallback_may_watch_beside_others(desk, build):
    desk.installation.plugin("spy", "class Plugin:\n    @hookimpl\n    def on_step(self): ...\n", fallback=True)
    assert "spy" in build().implementers("on_step")


def test_an_observer_is_not_wrapped(desk, build):
    source = "class Plugin:\n    @hookimpl(wrapper=True)\n    def on_step(self):\n        return (yield)\n"
    desk.installation.plugin("around", source)
    with pytest.raises(PluginError, match="wraps on_step; only hooks that one plugin answers can be wrapped"):
        build("around")


# -- wrappers -------------------------------------------------------------------------------------

WRAPPER = """
from pathlib import Path
class Plugin:
    @hookimpl(wrapper=True)
    def load_model(self, run):
        {before}
        loaded = yield
        {after}
        return loaded
"""


def test_a_wrapper_surrounds_the_loader_and_fills_no_slot(desk, build, run):
    source = WRAPPER.format(before="", after="loaded = attrs.evolve(loaded, revision='wrapped')")
    desk.installation.plugin("around", source)
    loaded = build("around").load_model(run, None, None)
    assert (loaded.base, loaded.revision) == ("light/model", "wrapped")


def test_a_wrapper_alone_leaves_the_slot_empty(desk):
    desk.installation.plugin("around", WRAPPER.format(before="", after=""))
    (text,) = conflicts(desk, switch_on=["around"], switch_off=["light_model"])
    assert text.endswith("plugin: no plugin implements load_model; switch one on that does")


@pytest.mark.parametrize(("before", "after"), [("raise ValueError('around')", ""), ("", "raise ValueError('around')")])
def test_a_wrapper_that_raises_is_named(desk, build, run, before, after):
    desk.installation.plugin("around", WRAPPER.format(before=before, after=after))
    with pytest.raises(PluginError, match=r"plugin around \(dist-around 1.0\) failed in load_model: ValueError"):
        build("around").load_model(run, None, None)


def test_a_failing_loader_is_named_through_a_wrapper(desk, build, run):
    desk.installation.plugin("around", WRAPPER.format(before="", after=""))
    desk.installation.plugin("loader", raising("load_model", "raise OSError('gone')"))
    plugins = build("around", "loader", switch_off=["light_model"])
    with pytest.raises(PluginError, match=r"plugin loader .* failed in load_model: OSError: gone"):
        plugins.load_model(run, None, None)


# -- failures in data hooks -----------------------------------------------------------------------

CALLS = {
    "check": lambda plugins, run: plugins.check(run),
    "launch": lambda plugins, run: plugins.launch(run, ["x"]),
    "load_rows": lambda plugins, run: plugins.load_rows(run),
    "load_processor": lambda plugins, run: plugins.load_processor(run, None),
    "format_dataset": lambda plugins, run: plugins.format_dataset(run, None, None),
    "quantize": lambda plugins, run: plugins.quantize(run),
    "load_model": lambda plugins, run: plugins.load_model(run, None, None),
    "adapt": lambda plugins, run: plugins.adapt(run, None),
    "training_args": lambda plugins, run: plugins.training_args(run),
    "make_trainer": lambda plugins, run: plugins.make_trainer(run, None, None, {}),
    "score": lambda plugins, run: plugins.score(run, []),
    "export_size": lambda plugins, run: plugins.export_size(run, 1),
    "write_reference": lambda plugins, run: plugins.write_reference(run, None, None, None),
    "export": lambda plugins, run: list(plugins.export(run, None, None, saved=None, exports=None)),
    "verify": lambda plugins, run: plugins.verify(run, None, None),
    "publish": lambda plugins, run: list(plugins.publish(run, [], None)),
}

OWNERS = {
    "load_rows": "light_rows",
    "load_processor": "light_format",
    "format_dataset": "light_format",
    "load_model": "light_model",
    "adapt": "light_model",
    "make_trainer": "light_trainer",
    "export": "light_export",
}


@pytest.fixture
def build_odd(desk):
    """Plugins with `odd` in the slot of `hook`, whatever else that leaves empty."""

    def make(hook, source):
        desk.installation.plugin("odd", source)
        loaded = desk.load(switch_on=["odd"], switch_off=[OWNERS[hook]] if hook in OWNERS else [])
        plugins, _ = build_plugins(loaded.active, report=print)
        return plugins

    return make


@pytest.mark.parametrize("hook", CALLS)
@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("raise ValueError('bad')", "ValueError: bad"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("assert 1 == 2", "AssertionError: "),
        ("raise GeneratorExit", "GeneratorExit: "),
        ("raise StopIteration", "StopIteration: "),
    ],
)
def test_a_failure_in_a_data_hook_names_plugin_version_and_hook(build_odd, run, hook, statement, cause):
    plugins = build_odd(hook, raising(hook, statement))
    with pytest.raises(PluginError) as caught:
        CALLS[hook](plugins, run)
    assert str(caught.value) == f"plugin odd (dist-odd 1.0) failed in {hook}: {cause}"
    assert caught.value.exit_code == 3


def test_what_a_generator_of_artifacts_raises_is_named_too(build_odd, run):
    plugins = build_odd("export", raising("export", "raise ValueError('bad'); yield"))
    with pytest.raises(PluginError, match=r"^plugin odd \(dist-odd 1\.0\) failed in export: ValueError: bad$"):
        CALLS["export"](plugins, run)


@pytest.mark.parametrize("error", ["RunError", "PluginError", "ProfileError"])
def test_what_a_plugin_raises_on_purpose_passes_as_it_is(build_odd, run, error):
    plugins = build_odd("load_rows", raising("load_rows", f"raise {error}('rows 3 and 4 are empty')"))
    with pytest.raises((RunError, PluginError, ProfileError), match=r"^rows 3 and 4 are empty$"):
        plugins.load_rows(run)


def test_the_cause_is_kept_for_a_debugger(build_odd, run):
    plugins = build_odd("quantize", raising("quantize", "raise ValueError('bad')"))
    with pytest.raises(PluginError) as caught:
        plugins.quantize(run)
    assert isinstance(caught.value.__cause__, ValueError)


# -- answers of the wrong kind --------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["load_rows", "load_processor", "format_dataset", "load_model", "make_trainer"])
def test_a_hook_that_must_answer_may_not_answer_none(build_odd, run, hook):
    plugins = build_odd(hook, answering(hook, "None"))
    with pytest.raises(PluginError) as caught:
        CALLS[hook](plugins, run)
    assert str(caught.value).startswith(f"{hook}: odd ")


@pytest.mark.parametrize(
    ("hook", "answer", "said"),
    [
        ("format_dataset", "[1, 2]", "format_dataset: odd must return Format, got list"),
        ("load_model", "'a model'", "load_model: odd must return Loaded, got str"),
        ("load_model", "None", "load_model: odd must return Loaded, got NoneType"),
        ("quantize", "{'bits': 4}", "quantize: odd must return Quantization, got dict"),
        ("adapt", "(1, 2)", "adapt: odd must return Loaded, got tuple"),
        ("export", "'path'", "export: odd must return Artifact or several of them, got str"),
        ("export", "['path']", "export: odd must return Artifact, got str"),
        ("publish", "7", "publish: odd must return str, got int"),
    ],
)
def test_an_answer_of_the_wrong_type_is_named(build_odd, run, hook, answer, said):
    plugins = build_odd(hook, answering(hook, answer))
    with pytest.raises(PluginError) as caught:
        CALLS[hook](plugins, run)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("hook", "answer", "wanted"),
    [
        ("export", "'path'", "return Artifact or several of them, got str"),
        ("export", "['path']", "return Artifact, got str"),
        ("export", "Artifact(kind='k', path=Path(), proof='proved')", "return Proof, got str"),
        ("export_size", "'large'", "return int, got str"),
        ("publish", "7", "return str, got int"),
        ("verify", "True", "return Proof, got bool"),
        ("verify", "Proof(verdict='proved')", "return Verdict, got str"),
        ("verify", "Proof(verdict=Verdict.PROVED, figures={'kl': 'low'})", "answer numbers: could not convert"),
    ],
)
def test_among_several_the_one_that_answered_is_named(desk, build, run, hook, answer, wanted):
    for name, answered in (("first", "None"), ("odd", answer), ("last", "None")):
        desk.installation.plugin(name, "from pathlib import Path\n" + answering(hook, answered))
    plugins = build("first", "odd", "last", switch_off=["light_export"])
    with pytest.raises(PluginError) as caught:
        CALLS[hook](plugins, run)
    assert str(caught.value).startswith(f"{hook}: odd must {wanted}")


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("check", "Problem(message='not in a list')"),
        ("check", "['a string, not a problem']"),
        ("check", "'a string'"),
        ("check", "5"),
        ("training_args", "['lr']"),
        ("training_args", "5"),
        ("launch", "'done'"),
        ("score", "0.5"),
        ("score", "['accuracy']"),
    ],
)
def test_an_odd_answer_is_a_plugin_error_that_names_the_plugin(build_odd, run, hook, answer):
    plugins = build_odd(hook, answering(hook, answer))
    with pytest.raises(PluginError, match=rf"plugin odd \(dist-odd 1.0\) failed in {hook}: TypeError: must return"):
        CALLS[hook](plugins, run)


def test_plugins_that_disagree_on_a_training_argument_are_both_named(desk, build, run):
    desk.installation.plugin("left", answering("training_args", "{'a': 1, 'same': [1]}"))
    desk.installation.plugin("right", answering("training_args", "{'a': 2, 'same': [1]}"))
    with pytest.raises(PluginError) as caught:
        build("left", "right").training_args(run)
    assert str(caught.value) == "training argument a: left says 1 and right says 2; switch one of them off"


def test_training_arguments_are_merged_and_none_is_no_answer(desk, build, run):
    desk.installation.plugin("left", answering("training_args", "{'a': 1, 'same': [1]}"))
    desk.installation.plugin("silent", answering("training_args", "None"))
    desk.installation.plugin("right", answering("training_args", "{'b': 2, 'same': [1]}"))
    assert build("left", "silent", "right").training_args(run) == {"shrink": 0.9, "a": 1, "b": 2, "same": [1]}


# -- checks ---------------------------------------------------------------------------------------


def test_problems_of_checks_get_the_line_of_their_key(desk):
    desk.installation.plugin(
        "careful",
        answering(
            "check",
            "[Problem(message='too many', key='train.max_steps'), Problem(message='nothing set', key='model.id')]",
        ),
    )
    line = desk.profile.read_text().split("\n").index("max_steps = 10") + 1
    assert conflicts(desk, switch_on=["careful"]) == [
        "model.id: nothing set",
        f"light.toml:{line}: train.max_steps: too many",
    ]


def test_warnings_of_checks_come_back_and_stop_nothing(desk):
    desk.installation.plugin(
        "careful", answering("check", "[Problem(message='hm', key='run.seed', severity='warning')]")
    )
    loaded = desk.load(switch_on=["careful"], sets=["train.learning_rate=0.5"])
    _, found = check_profile(loaded, engine.planned(loaded), report=print)
    assert [(problem.severity, problem.key) for problem in found] == [
        ("warning", "run.seed"),
        ("warning", "train.learning_rate"),
    ]
    assert all(isinstance(problem, Problem) for problem in found)


def test_every_plugins_problems_and_the_warnings_come_together(desk):
    desk.replace('path = "rows.jsonl"', 'path = "none.jsonl"')
    desk.installation.plugin("careful", answering("check", "[Problem(message='one'), Problem(message='two')]"))
    found = conflicts(desk, switch_on=["careful"], sets=["train.learning_rate=0.5"])
    assert len(found) == 4
    assert any("warning: train.learning_rate: 0.5 is unusually high" in text for text in found)
