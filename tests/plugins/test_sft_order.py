"""The order of the rows: every row once an epoch, random by seed, with little padding."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import attrs
import numpy as np
import pytest

from ftcore.api import MASKED, Decision, Example
from ftcore_plugins.sft import Options
from ftcore_plugins.sft.batches import GROUPED, ByLength
from ftcore_plugins.sft.order import StepOrder
from tiny_kit import SHORT, FakeControl, Tiny

# As long as rows of code are, in tokens.
LENGTHS = np.clip(np.random.default_rng(0).lognormal(5.2, 0.65, 4000).astype(int), 20, 1024).tolist()


def padding(lengths: list[int], micro: int) -> float:
    """Share of the tokens of all whole micro-batches that is padding."""
    batches = np.array(lengths[: len(lengths) // micro * micro]).reshape(-1, micro)
    return float(1 - batches.sum() / (batches.max(axis=1) * micro).sum())


@pytest.mark.parametrize("grouped", [1, 2, 50])
def test_rows_come_once_an_epoch_and_longest_first_in_each_step(grouped: int) -> None:
    lengths = [3, 9, 1, 7, 5, 2, 8, 4, 6, 10, 11]
    order = StepOrder(lengths, 3, seed=4, grouped=grouped)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append(list(order))
        assert sorted(epochs[-1]) == list(range(11))
        assert len(order) == 11
        for start in (0, 3, 6, 9):  # the short step is the last one
            step = [lengths[row] for row in epochs[-1][start : start + 3]]
            assert step == sorted(step, reverse=True)
    assert epochs[0] == epochs[2] != epochs[1]
    assert list(StepOrder(lengths, 3, seed=5, grouped=grouped)) != epochs[0]


@pytest.mark.parametrize(("rows", "micro"), [(8, 8), (8, 4), (16, 8), (32, 32), (64, 8)])
def test_grouped_steps_have_little_padding(rows: int, micro: int) -> None:
    at_random = [LENGTHS[row] for row in StepOrder(LENGTHS, rows, seed=1)]
    grouped = [LENGTHS[row] for row in StepOrder(LENGTHS, rows, seed=1, grouped=50)]
    assert padding(grouped, micro) < min(0.11, 0.3 * padding(at_random, micro))


def test_a_small_difference_in_length_does_not_sort_answers_into_steps() -> None:
    """Rows that differ in their answer alone: `left` is a few tokens longer than `right`."""
    lengths = [100, 104] * 400
    order = StepOrder(lengths, 16, seed=1, grouped=50)
    mixed = 0
    for epoch in range(10):
        order.set_epoch(epoch)
        rows = list(order)
        steps = [{lengths[row] for row in rows[start : start + 16]} for start in range(0, 800, 16)]
        mixed += sum(len(step) == 2 for step in steps)
    assert mixed > 0.65 * 10 * 50


def test_short_and_long_steps_come_in_random_order() -> None:
    order = StepOrder(LENGTHS, 8, seed=1, grouped=50)
    longest = [LENGTHS[row] for row in order][::8]
    rises = sum(after > before for before, after in itertools.pairwise(longest))
    assert 0.4 < rises / len(longest) < 0.6
    # Which rows share a step differs between epochs.
    steps = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        rows = list(order)
        steps.append({frozenset(rows[start : start + 8]) for start in range(0, len(rows), 8)})
    assert not steps[0] & steps[1]


def test_order_reads_no_row(tiny: Tiny, tmp_path: Path) -> None:
    read: Counter[int] = Counter()

    class Lazy(list[Example]):
        def __getitem__(self, place: int) -> Example:  # type: ignore[override]
            read[place] += 1
            return super().__getitem__(place)

    rows = Lazy(tiny.data.train)
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), data=attrs.evolve(tiny.data, train=rows))
    assert trainer.total_steps == 3
    assert not read
    trainer.train(FakeControl(tmp_path / "c"), None)
    assert read == Counter(range(21))  # one epoch, each row once


def test_the_option_changes_the_steps(tiny: Tiny, tmp_path: Path) -> None:
    def rows_of_steps(options: Options) -> list[set[str]]:
        trainer, seen = tiny.trainer(tiny.run(tmp_path, train=SHORT), sft=options), list[set[str]]()
        keep = lambda step: seen.append(set(trainer.inner._tally.origins)) or Decision()  # noqa: E731
        trainer.train(FakeControl(tmp_path / "c", keep), None)
        return seen

    assert rows_of_steps(Options()) == rows_of_steps(Options()) != rows_of_steps(Options(group_steps=1))


def test_held_out_rows_of_like_length_share_a_batch() -> None:
    examples = [Example(input_ids=[1] * n, labels=[MASKED] * n, replies=(), origin=f"x:{n}") for n in LENGTHS[:700]]
    batches = list(ByLength(examples, 8, lambda example: len(example.input_ids)))
    assert sorted(place for batch in batches for place in batch) == list(range(700))
    tokens = sum(max(LENGTHS[place] for place in batch) * len(batch) for batch in batches)
    assert 1 - sum(LENGTHS[:700]) / tokens < 0.1
    assert len(batches) == -(-700 // 8)
    assert GROUPED * 8 < 700
