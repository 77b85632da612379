"""Rows are held out by content: no twin of a held-out row is trained, whatever the order of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcore import testing
from ftcore.errors import RunError
from ftcore.values import Row, Rows

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)
TABLES = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=80)
SHARES = st.floats(0, 0.9)


def split_rows(rows, share, seed) -> Rows:
    run = testing.make_run(Path(), data={"validation": share}, run={"seed": seed})
    return testing.split(run, rows)


def rows_of(values) -> list[Row]:
    return [Row(values=value, origin=f"x:{n}") for n, value in enumerate(values)]


def split(numbers, share, seed=0):
    """Contents of both sides, or None when nothing is left to train on."""
    try:
        rows = split_rows(rows_of([{"n": number} for number in numbers]), share, seed)
    except RunError:
        return None
    return [row.values["n"] for row in rows.train], [row.values["n"] for row in rows.validation]


@given(NUMBERS, SHARES, st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_the_sides_are_disjoint_by_content_and_nothing_is_lost(numbers, share, seed):
    sides = split(numbers, share, seed)
    if sides is not None:
        train, validation = sides
        assert not set(train) & set(validation)
        assert sorted(train + validation) == sorted(numbers)
        assert train == [number for number in numbers if number in set(train)], "order is kept"


@given(NUMBERS, SHARES, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_the_file_does_not_matter(numbers, share, generator):
    shuffled = list(numbers)
    generator.shuffle(shuffled)
    first, second = split(numbers, share), split(shuffled, share)
    assert (first and sorted(first[1])) == (second and sorted(second[1]))


@given(NUMBERS, st.floats(0, 0.9), st.floats(0, 0.9))
@settings(max_examples=100, deadline=None)
def test_a_larger_share_holds_out_the_same_rows_and_more(numbers, one, other):
    small, large = split(numbers, min(one, other)), split(numbers, max(one, other))
    if small and large:
        assert set(small[1]) <= set(large[1])


@given(st.integers(20, 300), st.floats(0.05, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_share_of_distinct_rows_is_exact(count, share):
    sides = split(range(count), share)
    assert sides is not None
    assert len(sides[1]) == max(round(count * share), 1)


@given(st.lists(TABLES, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_json_has_a_fingerprint_that_says_content_and_order(tables):
    first = split_rows(rows_of(tables), 0, 0).fingerprint
    assert first == split_rows(rows_of(tables), 0, 1).fingerprint
    assert first != split_rows(rows_of([*tables, {"more": 1}]), 0, 0).fingerprint
    if tables != tables[::-1]:
        assert first != split_rows(rows_of(tables[::-1]), 0, 0).fingerprint


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_keys_is_no_content(seed):
    written, turned = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"c": 3}], [{"b": 2, "a": 1}, {"a": 1, "b": 2}, {"c": 3}]
    rows = split_rows(rows_of(written), 0.3, seed)
    assert rows.fingerprint == split_rows(rows_of(turned), 0.3, seed).fingerprint
    assert sorted([len(rows.train), len(rows.validation)]) == [1, 2], "the two that are equal are on one side"


def test_an_unpaired_surrogate_is_content_like_any_other():
    rows = rows_of([{"text": "\ud800"}, {"text": "\ud801"}])
    assert split_rows(rows, 0, 0).fingerprint != split_rows(rows[::-1], 0, 0).fingerprint


def test_another_seed_holds_out_other_rows():
    assert split(range(100), 0.2, seed=1)[1] != split(range(100), 0.2, seed=2)[1]


def test_twins_count_towards_the_share():
    _, validation = split([*range(50), *range(50)], 0.2)
    assert len(validation) == 20
    assert all(validation.count(number) == 2 for number in validation)


def test_nothing_is_held_out_when_the_share_is_zero():
    assert split(range(10), 0) == (list(range(10)), [])


def test_a_share_however_small_holds_out_one_row():
    assert len(split(range(10), 0.001)[1]) == 1


def test_no_rows_are_an_error():
    with pytest.raises(RunError, match="nothing to train on: the data has no rows"):
        split_rows([], 0.1, 0)


@pytest.mark.parametrize("numbers", [[1], [1, 1, 1]])
def test_rows_that_are_all_held_out_are_an_error(numbers):
    with pytest.raises(RunError, match=r"held out; set data.validation to 0"):
        split_rows(rows_of([{"n": number} for number in numbers]), 0.5, 0)


def test_origins_stay_with_their_rows():
    rows = rows_of([{"n": number} for number in range(20)])
    found = split_rows(rows, 0.3, 0)
    assert {row.origin: row.values["n"] for row in [*found.train, *found.validation]} == {
        f"x:{number}": number for number in range(20)
    }
