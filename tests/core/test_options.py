"""Options as help, the reference and the schema print them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from ftcore.options import options_of, shown_default, toml_value, type_name
from ftcore.preflight import CORE_TABLES
from ftcore.tables import option


@attrs.frozen(kw_only=True)
class Config:
    needed: str = option(help="must be there")
    size: int = option(3, help="size", at_least=1, below=10)
    share: float | None = option(None, help="share", above=0, at_most=1)
    names: tuple[str, ...] = option(("a", "b"), help="names")
    made: list[int] = attrs.field(factory=lambda: [1, 2])
    place: Path = option(Path("x/y"), help="place")


def test_options_in_the_order_in_which_they_are_written():
    options = {found.name: found for found in options_of(Config)}
    assert list(options) == ["needed", "size", "share", "names", "made", "place"]
    assert options["needed"].required
    assert not options["share"].required
    assert options["size"].bounds == {"minimum": 1, "exclusiveMaximum": 10}
    assert options["share"].bounds == {"exclusiveMinimum": 0, "maximum": 1}
    assert options["made"].default == [1, 2]
    assert options["size"].help == "size"
    assert options["made"].help == ""


def test_defaults_are_shown_as_toml():
    shown = {found.name: shown_default(found) for found in options_of(Config)}
    assert shown == {
        "needed": "required",
        "size": "3",
        "share": "unset",
        "names": '["a", "b"]',
        "made": "[1, 2]",
        "place": '"x/y"',
    }


@pytest.mark.parametrize(
    "value", [True, 3, -0.5, 2e-4, 'a "quoted" text', "line\nbreak", "ü", [], ["a", 1], {"a": 1, "b": ["c"]}, [[1], []]]
)
def test_a_value_printed_as_toml_reads_back(value):
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_a_table_with_odd_keys_printed_as_toml_reads_back():
    value = {"a b": 1, "c.d": 2, "": 3, 'say "x"': 4}
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (int, "integer"),
        (bool, "boolean"),
        (float | None, "number"),
        (int | str, "integer or string"),
        (tuple[str, ...], "list of string"),
        (list, "list"),
        (Literal["a", "b"], '"a" or "b"'),
        (dict[str, int], "table"),
        (Config, "table"),
        (tuple[Literal["a"], ...], 'list of "a"'),
    ],
)
def test_type_names(cls, name):
    assert type_name(cls) == name


@pytest.mark.parametrize("table", CORE_TABLES)
def test_every_option_of_core_has_help_and_a_type_that_a_profile_can_hold(table):
    for found in options_of(CORE_TABLES[table]):
        assert found.help, found.name
        assert found.help[0].islower() or found.help.split()[0].isupper(), found.help
        assert not found.help.endswith("."), found.help
        assert "<" not in found.type_name, found.type_name
        shown: Any = shown_default(found)
        assert shown in ("required", "unset") or tomllib.loads(f"x = {shown}")
