"""From a key path to its line, in every way that TOML can write a key."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcore.locate import line_of


def key(dotted: str) -> tuple[str, ...]:
    return tuple(dotted.split("."))


DOCUMENT = '''\
# [run] and name = 1 are no keys here
[run]
name = "not [train] = 1"     # nor is seed = 1
  seed  =  4

[ plugin . lora ]
targets = [
    "a = 1",                  # [data]
    'b = ]',
    # r = 3
]
r = 8

["plugin"."quoted"]
"the key" = 1
'literal' = """
[data]
path = 1
"""
after = 2
text = \'\'\'one line\'\'\'
inline = { x = 1, y = "}" }
last = 9

[train]
a.b.c = 1
a.b.d = 2
a . "e" = 3

[[plugin.steps.list]]
size = 1

[[plugin.steps.list]]
size = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("run", 2),
        ("run.name", 3),
        ("run.seed", 4),
        ("run.missing", 2),
        ("plugin", 6),
        ("plugin.lora", 6),
        ("plugin.lora.targets", 7),
        ("plugin.lora.targets.0", 7),
        ("plugin.lora.r", 12),
        ("plugin.quoted", 14),
        ("plugin.quoted.the key", 15),
        ("plugin.quoted.literal", 16),
        ("plugin.quoted.after", 20),
        ("plugin.quoted.text", 21),
        ("plugin.quoted.inline", 22),
        ("plugin.quoted.inline.x", 22),
        ("plugin.quoted.inline.missing", 22),
        ("plugin.quoted.last", 23),
        ("train", 25),
        ("train.a", 26),
        ("train.a.b", 26),
        ("train.a.b.c", 26),
        ("train.a.b.d", 27),
        ("train.a.e", 28),
        ("train.learning_rate", 25),
        ("plugin.steps.list", 30),
        ("plugin.steps.list.0", 30),
        ("plugin.steps.list.0.size", 31),
        ("plugin.steps.list.1", 33),
        ("plugin.steps.list.1.size", 34),
        ("data", None),
        ("data.path", None),
        ("targets", None),
        ("1", None),
    ],
)
def test_where_a_key_is(path, line):
    tomllib.loads(DOCUMENT)
    assert line_of(DOCUMENT, key(path)) == line


@pytest.mark.parametrize(
    "value",
    [
        '"""\n[x]\ny = 1\n"""',
        "'''\n[x]\ny = 1\n'''",
        '"""one \\""" [x\n"""',
        '"""two \\"\\"\\" [x\n\\\\"""',
        '""""four"""" # [x',
        "''''four'''' # [x",
        '"[x"',
        "'[x'",
        '"\\"[x"',
        "'\\'",
        '["[", "]", "{", # [\n "[x", \'[x\', """[\n""",\n]',
        "[[1, [2,\n[3]]],\n4]",
        "{a = {b = [1, 2,\n3]}}",
        "1 # [x",
        '"\u2028\u0085\x7f"'.replace("\x7f", ""),
        '"\u2028 \u0085 \u000b"'.replace("\u000b", ""),
        "1979-05-27 07:32:00Z",
        "[]",
        "{}",
        '""',
        '""""""',
        "''''''",
        '"""\\\n   """',
        '"""\\\\"""',
        '"""\\\\\\""""',
    ],
)
def test_lines_stay_right_after_any_value(value):
    text = f"[t]\nbefore = 0\nvalue = {value}\nafter = 1\n[u]\nlast = 2\n"
    tomllib.loads(text)
    assert line_of(text, ("t", "value")) == 3
    assert line_of(text, ("t", "after")) == 4 + value.count("\n")
    assert line_of(text, ("u", "last")) == 6 + value.count("\n")
    assert line_of(text, ("x",)) is None


def test_windows_line_ends():
    assert line_of("[run]\r\nname = 1\r\n\r\n[train]\r\nx = 1\r\n", ("train", "x")) == 5


@pytest.mark.parametrize("written", ['"a.b"', "'a.b'", '"a\\u002eb"', '"a\\u002Eb"'])
def test_a_quoted_key_is_one_part_whatever_it_holds(written):
    assert line_of(f"[t]\n\n{written} = 1\n", ("t", "a.b")) == 3


def test_a_quoted_key_keeps_its_quotes_inside():
    assert line_of("[t]\n\n'\"x\"' = 1\n", ("t", '"x"')) == 3
    assert line_of('[t]\n\n"it\'s" = 1\n', ("t", "it's")) == 3


KEYS = st.text("abcxyz_-19", min_size=1, max_size=4)
BASIC = st.text("ab \"\\'[]{}#=\n\u2028\u00fc", max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
)
MULTI = st.text("ab \"\\'[]{}#=\n\u2028", max_size=12).map(
    lambda text: '"""' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '\n"""'
)
LITERAL = st.text('ab "\\[]{}#=\u2028', max_size=8).map(lambda text: f"'{text}'")
RAW = st.text('ab "\\[]{}#=\n', max_size=12).map(lambda text: f"'''{text}'''")
SCALARS = st.one_of(st.integers(-9, 9).map(str), st.just("true"), BASIC, MULTI, LITERAL, RAW)
LISTS = st.lists(SCALARS, max_size=3).map(lambda items: "[\n# [x] = '\"\n" + ",\n".join(items) + "\n]")
TABLES = st.dictionaries(KEYS, st.one_of(st.just("1"), BASIC, LITERAL), max_size=3).map(
    lambda items: "{" + ", ".join(f"{name} = {value}" for name, value in items.items()) + "}"
)


@given(st.lists(st.tuples(KEYS, st.one_of(SCALARS, LISTS, TABLES)), unique_by=lambda pair: pair[0], max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_value_of_any_kind_before_a_key_leaves_its_line_right(pairs):
    lines, text = {}, "[table]\n"
    for name, value in pairs:
        lines[name] = text.count("\n") + 1
        text += f"{name} = {value}  # [table2] '\n"
    lines["~"] = text.count("\n") + 1
    text += '"~" = 1\n'
    assert tomllib.loads(text)["table"]["~"] == 1
    assert {name: line_of(text, ("table", name)) for name in lines} == lines


@given(st.text("ab.=\"'[]{}#\\\n ", max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_makes_it_stumble(text):
    line = line_of(text, ("a", "b"))
    assert line is None or 1 <= line <= text.count("\n") + 1
