"""Discovery by metadata: only what a profile names is imported, and nothing goes wrong without a name."""

from __future__ import annotations

import sys

import pytest

from ftcore.discovery import NoOptions, config_class, discover
from ftcore.errors import ExitCode, PluginError

WHOLE = "class Plugin: ..."


def test_only_metadata_is_read(installation):
    installation.plugin("bomb", "raise SystemExit('imported, though nobody asked')")
    installation.plugin("whole", WHOLE)
    assert discover().names == ["bomb", "whole"]
    assert "module_of_bomb" not in sys.modules
    assert "module_of_whole" not in sys.modules


def test_a_source_knows_where_it_comes_from(installation):
    installation.plugin("whole", WHOLE)
    source = discover().find("whole")
    assert (source.name, source.target) == ("whole", "module_of_whole:Plugin")
    assert str(source) == "whole (dist-whole 1.0)"
    assert source.load().__name__ == "Plugin"


def test_fallbacks_are_known_and_once(installation):
    installation.plugin("plain", WHOLE, fallback=True)
    installation.plugin("whole", WHOLE)
    assert discover().fallbacks == ("plain",)
    assert discover().names == ["plain", "whole"]


def test_a_profile_imports_the_plugins_that_it_names_and_no_other(desk):
    desk.installation.plugin("bomb", "raise SystemExit('imported, though nobody asked')")
    desk.installation.plugin("named", WHOLE)
    desk.append("\n[plugin.named]\n")
    desk.load()
    assert "module_of_named" in sys.modules
    assert "module_of_bomb" not in sys.modules


def test_two_distributions_that_claim_a_name_are_an_error_naming_both(desk):
    desk.installation.plugin("mine", WHOLE)
    desk.installation.distribution("another", "3.1", plugins={"mine": "module_of_mine:Plugin"})
    desk.load()  # nobody named it
    desk.append("\n[plugin.mine]\n")
    with pytest.raises(PluginError) as caught:
        desk.load()
    assert str(caught.value) == "plugin mine is claimed by another 3.1 and dist-mine 1.0; uninstall one of them"
    assert caught.value.exit_code == ExitCode.PLUGIN == 3


def test_one_distribution_seen_twice_on_the_path_is_one(desk, tmp_path, monkeypatch):
    desk.installation.plugin("mine", WHOLE)
    monkeypatch.syspath_prepend(str(desk.installation.folder))
    assert str(discover().find("mine")) == "mine (dist-mine 1.0)"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise ImportError('libfoo.so is missing')", "ImportError: libfoo.so is missing"),
        ("raise RuntimeError('bad day')", "RuntimeError: bad day"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("from nowhere_at_all import x", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def (", "SyntaxError: "),
        ("class Other: ...", "AttributeError: module 'module_of_cracked' has no attribute 'Plugin'"),
        ("assert False", "AssertionError: "),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_an_error_with_its_cause(desk, source, cause):
    desk.installation.plugin("cracked", source)
    desk.append("\n[plugin.cracked]\n")
    with pytest.raises(PluginError) as caught:
        desk.load()
    start = "plugin cracked (dist-cracked 1.0) cannot be imported from module_of_cracked:Plugin: "
    assert str(caught.value).startswith(start + cause)


def test_several_broken_plugins_are_reported_together(desk):
    desk.installation.plugin("first", "raise ImportError('one')")
    desk.installation.plugin("second", "raise ImportError('two')")
    with pytest.raises(PluginError) as caught:
        desk.load(switch_on=["first", "second"])
    assert [line.split()[1] for line in str(caught.value).split("\n")] == ["first", "second"]


@pytest.mark.parametrize(
    "source",
    ["Plugin = 5", "def Plugin(config): ...", "class Plugin:\n    class Config: ...", "class Plugin:\n    Config = 5"],
)
def test_a_plugin_is_a_class_with_an_attrs_config(desk, source):
    desk.installation.plugin("odd", source)
    with pytest.raises(PluginError) as caught:
        desk.load(switch_on=["odd"])
    assert str(caught.value) == (
        "plugin odd (dist-odd 1.0): module_of_odd:Plugin must be a class whose Config is an attrs class; "
        "see docs/plugins.md"
    )


def test_a_config_with_a_type_that_is_not_there_names_the_plugin(desk):
    desk.installation.plugin(
        "odd",
        """
        @attrs.frozen
        class Config:
            size: "Nowhere" = option(1, help="x")
        class Plugin:
            Config = Config
        """,
    )
    with pytest.raises(PluginError, match=r"plugin odd \(dist-odd 1.0\): its Config cannot be read: name 'Nowhere'"):
        desk.load(switch_on=["odd"])


def test_a_plugin_without_options_has_an_empty_table(desk, complaints):
    desk.installation.plugin("bare", WHOLE)
    assert config_class(discover().find("bare").load()) is NoOptions
    assert isinstance(desk.load(switch_on=["bare"]).active[-1].config, NoOptions)
    (text,) = complaints(desk.profile, sets=["plugin.bare.x=1"])
    assert text == "plugin.bare.x: unknown key"


def test_a_dataclass_config_is_refused_by_name(desk):
    desk.installation.plugin(
        "odd",
        """
        import dataclasses
        @dataclasses.dataclass
        class Config:
            size: int = 1
        class Plugin:
            Config = Config
        """,
    )
    with pytest.raises(PluginError, match=r"plugin odd .* must be a class whose Config is an attrs class"):
        desk.load(switch_on=["odd"])


def test_a_distribution_without_a_version_does_not_hide_the_others(installation):
    info = installation.folder / "broken-0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[ftcore.plugins]\nlost = nowhere:Plugin\n")
    installation.plugin("whole", WHOLE)
    assert "whole" in discover().names
    pytest.importorskip("importlib_metadata")  # libraries bring it; its finder takes the place of Python's own
    assert "whole" in discover().names
