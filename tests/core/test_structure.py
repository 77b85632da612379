"""A table -> its attrs class, or every mistake in it: types that a plugin's `Config` may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs.validators import in_, instance_of, matches_re

from ftcore.structure import nearest, structure
from ftcore.tables import option


@attrs.frozen(kw_only=True)
class Inner:
    size: int = option(help="size", at_least=1)
    label: str = option("", help="label")


@attrs.frozen(kw_only=True)
class Everything:
    flag: bool = option(False, help="flag")
    count: int = option(1, help="count")
    rate: float = option(1.0, help="rate", above=0, at_most=10)
    word: str = option("", help="word")
    place: Path = option(Path("x"), help="place")
    maybe: int | None = option(None, help="maybe", at_least=2)
    either: int | str = option(0, help="either")
    names: tuple[str, ...] = option((), help="names")
    listed: list[int] = option(help="listed", default=attrs.Factory(list))
    sequence: Sequence[float] = option((), help="sequence")
    mapping: dict[str, int] = option(help="mapping", default=attrs.Factory(dict))
    generic: Mapping[str, Any] = option(help="generic", default=attrs.Factory(dict))
    choice: Literal["a", "bee", 3] = option("a", help="choice")
    anything: Any = option(None, help="anything")
    inner: Inner | None = option(None, help="inner")
    inners: tuple[Inner, ...] = option((), help="inners")
    paths: tuple[Path, ...] = option((), help="paths")


def mistakes(table: Any, cls: type = Everything) -> list[tuple[str, str]]:
    value, found = structure(cls, table, ("t",))
    assert value is None
    return [(".".join(path), text) for path, text in found]


def test_every_type_is_structured():
    table = {
        "flag": True,
        "count": -3,
        "rate": 2,
        "word": "w",
        "place": "a/b",
        "maybe": 2,
        "either": "e",
        "names": ["a", "b"],
        "listed": [1, 2],
        "sequence": [1, 2.5],
        "mapping": {"k": 1},
        "generic": {"k": [1, "x"]},
        "choice": 3,
        "anything": {"k": 1},
        "inner": {"size": 1},
        "inners": [{"size": 1, "label": "l"}, {"size": 2}],
        "paths": ["p", "q/r"],
    }
    value, found = structure(Everything, table, ("t",))
    assert found == []
    assert value == Everything(
        flag=True,
        count=-3,
        rate=2.0,
        word="w",
        place=Path("a/b"),
        maybe=2,
        either="e",
        names=("a", "b"),
        listed=[1, 2],
        sequence=value.sequence,
        mapping={"k": 1},
        generic={"k": [1, "x"]},
        choice=3,
        anything={"k": 1},
        inner=Inner(size=1),
        inners=(Inner(size=1, label="l"), Inner(size=2)),
        paths=(Path("p"), Path("q/r")),
    )
    assert list(value.sequence) == [1.0, 2.5]
    assert isinstance(value.rate, float)


def test_an_empty_table_is_the_defaults():
    assert structure(Everything, {}, ("t",)) == (Everything(), [])


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({"flag": "false"}, "t.flag", "expected true or false, got 'false' (a string)"),
        ({"flag": 1}, "t.flag", "expected true or false, got 1 (a whole number)"),
        ({"count": True}, "t.count", "expected a whole number, got True (a boolean)"),
        ({"count": 1.0}, "t.count", "expected a whole number, got 1.0 (a number)"),
        ({"rate": False}, "t.rate", "expected a number, got False (a boolean)"),
        ({"rate": 11}, "t.rate", "must be <= 10, got 11.0 (a number)"),
        ({"rate": 10**30}, "t.rate", "expected a number of at most 64 bits, got "),
        ({"word": 1}, "t.word", "expected a string, got 1 (a whole number)"),
        ({"word": ["w"]}, "t.word", "expected a string, got ['w'] (a list)"),
        ({"place": 1}, "t.place", "expected a path in quotes, got 1 (a whole number)"),
        ({"place": "a\0b"}, "t.place", "no file can be called 'a\\x00b' (a string)"),
        ({"maybe": 1}, "t.maybe", "must be >= 2, got 1 (a whole number)"),
        ({"maybe": "2"}, "t.maybe", "expected a whole number, got '2' (a string)"),
        ({"either": 1.5}, "t.either", "expected a whole number, got 1.5 (a number) or expected a string, got 1.5"),
        ({"names": "q_proj"}, "t.names", "expected a list, got 'q_proj' (a string)"),
        ({"names": {"q": 1}}, "t.names", "expected a list, got {'q': 1} (a table)"),
        ({"names": ["a", 1]}, "t.names.1", "expected a string, got 1 (a whole number)"),
        ({"listed": "12"}, "t.listed", "expected a list, got '12' (a string)"),
        ({"listed": [1, "2"]}, "t.listed.1", "expected a whole number, got '2' (a string)"),
        ({"sequence": "12"}, "t.sequence", "expected a list, got '12' (a string)"),
        ({"mapping": [1]}, "t.mapping", "expected a table, got [1] (a list)"),
        ({"mapping": {"k": "1"}}, "t.mapping.k", "expected a whole number, got '1' (a string)"),
        ({"choice": "b"}, "t.choice", "expected one of 'a', 'bee', 3, got 'b' (a string)"),
        ({"choice": "be"}, "t.choice", "expected one of 'a', 'bee', 3, got 'be' (a string); did you mean 'bee'?"),
        ({"choice": 3.0}, "t.choice", "expected one of 'a', 'bee', 3, got 3.0 (a number)"),
        ({"inner": {}}, "t.inner.size", "required, but not set"),
        ({"inner": {"size": 0}}, "t.inner.size", "must be >= 1, got 0 (a whole number)"),
        ({"inner": {"size": 1, "labl": ""}}, "t.inner.labl", "unknown key; did you mean 'label'?"),
        ({"inner": "x"}, "t.inner", "expected a table, got 'x' (a string)"),
        ({"inners": [{"size": 1}, {"size": "2"}]}, "t.inners.1.size", "expected a whole number, got '2' (a string)"),
        ({"inners": [{"size": 1}, 5]}, "t.inners.1", "expected a table, got 5 (a whole number)"),
        ({"paths": ["ok", "x" * 300]}, "t.paths.1", "no file can be called 'xxx"),
        ({"flga": True}, "t.flga", "unknown key; did you mean 'flag'?"),
        ({"zzz": 1}, "t.zzz", "unknown key; there are anything, choice, count, "),
        ("x", "t", "expected a table, got 'x' (a string)"),
        ([{}], "t", "expected a table, got [{}] (a list)"),
    ],
)
def test_each_mistake_has_its_path_and_one_sentence(table, key, said):
    ((found_key, text),) = mistakes(table)
    assert found_key == key
    assert text.startswith(said)


def test_all_mistakes_come_at_once():
    found = mistakes({"flag": 1, "names": [1, 2], "inner": {"size": 0, "x": 1}, "unknown": 1, "other": 2})
    assert sorted(key for key, _ in found) == [
        "t.flag",
        "t.inner.size",
        "t.inner.x",
        "t.names.0",
        "t.names.1",
        "t.other",
        "t.unknown",
    ]


@attrs.frozen(kw_only=True)
class Validated:
    even: int = attrs.field(default=0)
    one_of: str = attrs.field(default="a", validator=in_(["a", "b"]))
    shape: str = attrs.field(default="aa", validator=matches_re("a+"))
    text: Any = attrs.field(default="t", validator=instance_of(str))
    low: int = option(0, help="low")
    high: int = option(9, help="high")
    odd_key: int = attrs.field(default=0)

    @even.validator
    def _check_even(self, field: Any, value: int) -> None:
        if value % 2:
            raise ValueError(f"must be even, got {value}")

    @odd_key.validator
    def _look_up(self, field: Any, value: int) -> None:
        {0: "zero"}[value]

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is over high; swap them")


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({"even": 3}, "t.even", "must be even, got 3"),
        ({"one_of": "c"}, "t.one_of", "must be in ['a', 'b'] (got 'c')"),
        ({"text": 5}, "t.text", "must be <class 'str'>"),
        ({"low": 10}, "t", "low is over high; swap them"),
    ],
)
def test_validators_of_every_make_speak_for_themselves(table, key, said):
    ((found_key, text),) = mistakes(table, Validated)
    assert found_key == key
    assert said in text


def test_a_validator_that_stumbles_is_not_taken_for_a_missing_key():
    ((key, text),) = mistakes({"odd_key": 5}, Validated)
    assert key == "t.odd_key"
    assert "not set" not in text


@pytest.mark.parametrize(
    ("name", "names", "hint"),
    [
        ("lerning_rate", ["learning_rate", "epochs"], "; did you mean 'learning_rate'?"),
        ("zzz", ["b", "a"], "; there are a, b"),
        ("zzz", [], ""),
    ],
)
def test_nearest(name, names, hint):
    assert nearest(name, names) == hint


def test_an_option_may_be_called_as_the_arguments_of_cattrs():
    @attrs.frozen(kw_only=True)
    class Named:
        cl: int = option(1, help="x", at_least=1)
        converter: Path | None = option(None, help="x")
        typevar_map: tuple[str, ...] = option((), help="x")

    value, mistakes = structure(Named, {"cl": 2, "converter": "a", "typevar_map": ["b"]}, ("t",))
    assert (value, mistakes) == (Named(cl=2, converter=Path("a"), typevar_map=("b",)), [])
    assert structure(Named, {"cl": 0, "convertor": "a"}, ("t",))[1] == [
        (("t", "convertor"), "unknown key; did you mean 'converter'?"),
        (("t", "cl"), "must be >= 1, got 0 (a whole number)"),
    ]
