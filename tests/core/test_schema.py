"""The JSON schema says what `ftcore check` says, for the shipped profiles and for strangers' plugins."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from ftcore.discovery import discover
from ftcore.errors import ProfileError
from ftcore.preflight import CORE_TABLES
from ftcore.schema import profile_schema

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted([*ROOT.glob("profiles/*.toml"), *ROOT.glob("hardware_profiles/*.toml")])


@pytest.fixture(scope="module")
def shipped():
    """The schema over core and the plugins that are really installed."""
    schema, _ = profile_schema(discover())
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.fixture
def light(desk):
    """The schema over core and the light plugins."""
    schema, broken = profile_schema(discover())
    assert broken == []
    return Draft7Validator(schema)


def wrong_keys(validator, table):
    return sorted(".".join(map(str, error.absolute_path)) for error in validator.iter_errors(table))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_shipped_profile_validates(shipped, path):
    assert wrong_keys(shipped, tomllib.loads(path.read_text())) == []


def test_there_are_shipped_profiles():
    assert {path.parent.name for path in PROFILES} == {"profiles", "hardware_profiles"}


def test_the_schema_knows_every_core_table_and_every_installed_plugin(shipped):
    properties = shipped.schema["properties"]
    assert {*CORE_TABLES, "plugin"} == set(properties)
    assert set(properties["plugin"]["properties"]) == set(discover().names)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("train.learning_rate = 0", "train.learning_rate"),
        ('train.learning_rate = "1"', "train.learning_rate"),
        ("train.batch_size = 0", "train.batch_size"),
        ("train.batch_size = 1.5", "train.batch_size"),
        ("train.max_steps = 0", "train.max_steps"),
        ("data.validation = 1", "data.validation"),
        ("data.validation = -0.1", "data.validation"),
        ("run.seed = 4294967296", "run.seed"),
        ('train.scheduler = "cosin"', "train.scheduler"),
        ('train.activation_checkpointing = "false"', "train.activation_checkpointing"),
        ("run.name = 5", "run.name"),
        ("data.path = 5", "data.path"),
        ("trian.x = 1", ""),
        ("train.lerning_rate = 1", "train"),
        ("plugin.nobody.x = 1", "plugin"),
        ("plugin.light_trainer.shrink = 0", "plugin.light_trainer.shrink"),
        ("plugin.light_trainer.shrnk = 1", "plugin.light_trainer"),
        ("plugin.light_diary = {}", "plugin.light_diary"),
        ("train = 5", "train"),
        ("plugin = []", "plugin"),
    ],
)
def test_what_check_refuses_the_schema_refuses(desk, light, problems_of, line, key):
    path = desk.write(f'hardware.profile = "cpu"\n{line}\n')
    assert wrong_keys(light, tomllib.loads(path.read_text())) == [key]
    assert len(problems_of(path)) == 1


def test_what_check_takes_the_schema_takes(desk, light):
    assert wrong_keys(light, tomllib.loads(desk.profile.read_text())) == []
    assert wrong_keys(light, {}) == []


def test_the_resolved_settings_of_a_run_validate(desk, light):
    assert wrong_keys(light, desk.load().settings()) == []


STRANGER = """
    from pathlib import Path
    from typing import Literal

    @attrs.frozen(kw_only=True)
    class Part:
        '''One part.'''
        size: int = option(help="how large", at_least=1)

    @attrs.frozen(kw_only=True)
    class Config:
        targets: tuple[str, ...] = option(("a",), help="what to hit")
        level: Literal["low", "high"] | None = option(None, help="how much")
        either: int | str = option(0, help="one or the other")
        share: float | None = option(None, help="share", above=0, below=1)
        sizes: dict[str, int] = option(attrs.Factory(dict), help="sizes by name")
        parts: tuple[Part, ...] = option((), help="parts")
        part: Part = option(Part(size=3), help="a part")
        place: Path = option(help="where")

    class Plugin:
        '''A stranger's plugin.

        More about it.
        '''
        Config = Config
        def __init__(self, config): ...
"""


def test_a_strangers_plugin_is_in_the_schema_with_all_its_types(installation):
    installation.plugin("stranger", STRANGER)
    schema, broken = profile_schema(discover())
    Draft7Validator.check_schema(schema)
    json.dumps(schema)
    assert broken == []
    table = schema["properties"]["plugin"]["properties"]["stranger"]
    assert table["description"] == "A stranger's plugin."
    assert table["required"] == ["place"]
    assert table["properties"]["part"]["default"] == {"size": 3}
    assert table["properties"]["targets"]["default"] == ["a"]
    validator = Draft7Validator(schema)
    right = {
        "targets": ["x"],
        "level": "low",
        "either": "s",
        "share": 0.5,
        "sizes": {"a": 1},
        "parts": [{"size": 1}],
        "part": {"size": 2},
        "place": "p",
    }
    assert wrong_keys(validator, {"plugin": {"stranger": right}}) == []
    wrong = {
        "targets": "x",
        "level": "middle",
        "either": 1.5,
        "share": 1,
        "sizes": {"a": "1"},
        "parts": [{"size": 0}],
        "part": {"sise": 2},
        "place": 3,
    }
    assert wrong_keys(validator, {"plugin": {"stranger": wrong}}) == [
        "plugin.stranger.either",
        "plugin.stranger.level",
        "plugin.stranger.part",
        "plugin.stranger.part",
        "plugin.stranger.parts.0.size",
        "plugin.stranger.place",
        "plugin.stranger.share",
        "plugin.stranger.sizes.a",
        "plugin.stranger.targets",
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no driver here')", "ImportError: no driver here"),
        ("import module_that_nobody_has", "No module named 'module_that_nobody_has'"),
        ("Plugin = 5", "must be a class whose Config is an attrs class"),
        ("class Plugin:\n    class Config: ...", "must be a class whose Config is an attrs class"),
        (
            "@attrs.frozen\nclass Config:\n    size: 'NoSuchType' = option(1, help='x')\n\n"
            "class Plugin:\n    Config = Config",
            "name 'NoSuchType' is not defined",
        ),
    ],
    ids=["raises", "no module", "no class", "no attrs", "unknown type"],
)
def test_a_broken_plugin_is_reported_with_its_reason_and_left_open(installation, source, reason):
    installation.plugin("cracked", source)
    installation.plugin("whole", "class Plugin: ...")
    schema, broken = profile_schema(discover())
    (sentence,) = broken
    assert sentence.startswith("plugin cracked (dist-cracked 1.0)")
    assert reason in sentence
    assert wrong_keys(Draft7Validator(schema), {"plugin": {"cracked": {"anything": 1}, "whole": {}}}) == []


def test_a_name_that_two_distributions_claim_is_reported_with_both(installation):
    installation.plugin("twice", "class Plugin: ...")
    installation.distribution("other-dist", "2.1", plugins={"twice": "module_of_twice:Plugin"})
    _, broken = profile_schema(discover())
    assert broken == ["plugin twice is claimed by dist-twice 1.0 and other-dist 2.1; uninstall one of them"]


def test_a_schema_that_is_refused_by_check_is_no_accident(desk, light):
    """A contradiction between two keys is beyond a schema; `check` alone finds it."""
    path = desk.write('hardware.profile = "cpu"\ntrain.micro_batch_size = 3\n')
    assert wrong_keys(light, tomllib.loads(path.read_text())) == []
    with pytest.raises(ProfileError):
        desk.load()
