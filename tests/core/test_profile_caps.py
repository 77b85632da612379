"""Profiles that are made to hurt: one error, and soon."""

from __future__ import annotations

import contextlib
import time

import pytest

from ftcore.errors import ProfileError
from ftcore.layer import MAX_BYTES, MAX_DEPTH, MAX_KEY
from ftcore.profile import read_profile

SECONDS = 2.0
"""The bound is a second; twice that allows for a busy machine."""


def the_one_problem(path):
    start = time.process_time()
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert time.process_time() - start < SECONDS
    (problem,) = caught.value.problems
    return problem


def test_a_profile_of_the_largest_size_is_read_and_one_byte_more_is_not(desk):
    line = 'name = "x"\n'
    desk.write(line + "#" * (MAX_BYTES - len(line)))
    assert read_profile(desk.profile).tables["name"] == "x"
    desk.write(line + "#" * (MAX_BYTES - len(line) + 1))
    assert the_one_problem(desk.profile).message.endswith("over 256 KiB; a profile holds settings, not data")


def test_an_endless_file_is_not_read_to_its_end(desk):
    with desk.profile.open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing
    assert "over 256 KiB" in the_one_problem(desk.profile).message


@pytest.mark.parametrize(
    "text",
    [
        "[" + ".".join("a" * MAX_DEPTH) + "]\nb = 1",
        ".".join("a" * MAX_DEPTH) + ".b = 1",
        "a = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "a = " + "{a = " * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
        "a = [" + "{a = [" * MAX_DEPTH + "]}" * MAX_DEPTH + "]",
        ".".join("a" * 2000) + " = 1",
    ],
)
def test_nesting_over_the_cap_is_one_error(desk, text):
    problem = the_one_problem(desk.write(text))
    assert problem.message == f"nested over {MAX_DEPTH} levels deep; flatten it"
    assert problem.file == desk.profile


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, "a = " + "[" * 100_000 + "]" * 100_000, "a = " + "{a = " * 20_000 + "1" + "}" * 20_000],
)
def test_nesting_that_exhausts_the_stack_is_one_error(desk, text):
    assert the_one_problem(desk.write(text)).message == "nested too deeply; flatten it"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a." * 120_000 + "a = 1", id="dotted key"),
        pytest.param('"a".' * 60_000 + "a = 1", id="dotted quoted key"),
        pytest.param("a . " * 60_000 + "a = 1", id="dotted key with spaces"),
        pytest.param("[" + "a." * 120_000 + "a]", id="header"),
        pytest.param("[[" + "a." * 120_000 + "a]]", id="header of an array"),
        pytest.param("x = {" + "a." * 120_000 + "a = 1}", id="inline table"),
        pytest.param("x = [{" + "a." * 120_000 + "a = 1}]", id="inline table in an array"),
        pytest.param(
            "[" + "a." * 500 + "a]\n" + "\n".join(f"k{n}=1" for n in range(30_000)), id="long header, many keys"
        ),
    ],
)
def test_a_bomb_of_dotted_keys_is_one_error_and_soon(desk, text):
    problem = the_one_problem(desk.write(text))
    assert problem.message.startswith(("nested", "over"))


def test_a_depth_and_a_key_at_the_cap_are_read(desk):
    long = "k" * MAX_KEY
    text = ".".join("a" * (MAX_DEPTH - 2)) + f'.b = 1\n{long} = "fine"\n'
    assert read_profile(desk.write(text)).tables[long] == "fine"


def test_a_long_key_is_one_error(desk):
    problem = the_one_problem(desk.write("k" * (MAX_KEY + 1) + " = 1"))
    assert problem.message == f"a key of {MAX_KEY + 1} characters ({'k' * 20}...); the longest allowed has {MAX_KEY}"


def test_a_very_long_key_in_a_deep_place_is_one_error(desk):
    assert "a key of 100000 characters" in the_one_problem(desk.write("x = [{" + "k" * 100_000 + " = 1}]")).message


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[train]\n" + "\n".join(f"k{n} = 1" for n in range(20_000)), id="keys of one table"),
        pytest.param("\n".join(f"[t{n}]" for n in range(20_000)), id="tables"),
        pytest.param("\n".join(f"[plugin.p{n}]" for n in range(12_000)), id="plugins"),
        pytest.param("train = {" + ", ".join(f"k{n}=1" for n in range(20_000)) + "}", id="keys on one line"),
        pytest.param("[[train.x]]\n" * 15_000, id="an array of tables"),
    ],
)
def test_a_profile_of_very_many_keys_is_one_error_and_soon(desk, text):
    problem = the_one_problem(desk.write(text))
    assert "keys" in problem.message


def test_hundreds_of_mistakes_are_all_reported_and_soon(desk, problems_of):
    path = desk.write("[train]\n" + "".join(f"k{n} = 1\n" for n in range(400)))
    start = time.process_time()
    problems = problems_of(path)
    assert time.process_time() - start < SECONDS
    assert [problem.line for problem in problems] == list(range(2, 402))


def test_a_long_list_is_fine_and_quick(desk, problems_of):
    path = desk.write(f"run.seed = [{'0, ' * 60_000}]")
    start = time.process_time()
    (problem,) = problems_of(path)
    assert time.process_time() - start < SECONDS
    assert problem.key == "run.seed"


@pytest.mark.parametrize(
    "letter", ["a", '"', "'", "=", "[", "{", ".", "\\", "#", " ", "\n", "a.", '""" ', "[[a]]", "a='''"]
)
def test_a_file_full_of_one_thing_ends_soon(desk, letter):
    text = letter * ((MAX_BYTES - 10) // len(letter))
    start = time.process_time()
    with contextlib.suppress(ProfileError):  # some are read, some are refused; nothing else may happen
        read_profile(desk.write(text))
    assert time.process_time() - start < SECONDS


def test_deep_nesting_from_the_command_line_is_one_error(desk, problems_of):
    (problem,) = problems_of(desk.profile, sets=[".".join("a" * 30_000) + "=1"])
    assert "nested" in problem.message
    (problem,) = problems_of(desk.profile, sets=["run.seed=" + "[" * 50_000])
    assert problem.key == "run.seed"


def test_a_long_key_from_the_command_line_is_one_error(desk, problems_of):
    (problem,) = problems_of(desk.profile, sets=["k" * 200 + "=1"])
    assert "a key of 200 characters" in problem.message
