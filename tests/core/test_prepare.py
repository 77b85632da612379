"""What core does not take a formatter's word for: the ledger, the sides of the split, and what is prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from ftcore.errors import PluginError, RunError
from ftcore.prepare import TWIN, prepare
from ftcore.testing import make_run
from ftcore.values import MASKED, Drop, Example, Ledger, PreparedData, Row, Rows

END = 3


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "".join(chr(token) for token in tokens)


class Numbers(list):
    """As much of a tensor as the proof needs."""

    def tolist(self) -> list:
        return list(self)


def example(row: Row, *, trained_from: int | None = None) -> Example:
    asked = f"Q {row.values['question']}"
    ids = [*map(ord, f"{asked}\n{row.values['answer']}"), END]
    start = len(asked) + 1 if trained_from is None else trained_from
    reply = "".join(map(chr, ids[start:-1]))
    return Example(input_ids=ids, labels=[*[MASKED] * start, *ids[start:]], replies=(reply,), origin=row.origin)


def collate(examples: Sequence[Example]) -> dict[str, Numbers]:
    longest = max(len(row.input_ids) for row in examples)
    pads = [longest - len(row.input_ids) for row in examples]
    pairs = list(zip(examples, pads, strict=True))
    return {
        "input_ids": Numbers([*row.input_ids, *[0] * pad] for row, pad in pairs),
        "labels": Numbers([*row.labels, *[MASKED] * pad] for row, pad in pairs),
        "attention_mask": Numbers([*[1] * len(row.input_ids), *[0] * pad] for row, pad in pairs),
    }


def formatted(rows: Rows) -> PreparedData:
    train, validation = [example(row) for row in rows.train], [example(row) for row in rows.validation]
    ledger = Ledger(rows=len(train) + len(validation), trained=len(train), held_out=len(validation))
    return PreparedData(train=train, validation=validation, collate=collate, ledger=ledger, end_of_turn=END)


@attrs.frozen
class OneFormatter:
    """The plugins of a run whose formatter is `change` after an honest one."""

    rows: list[Row]
    change: Any

    def load_rows(self, run: Any) -> list[Row]:
        return self.rows

    def load_processor(self, run: Any, rows: Rows) -> Letters:
        return Letters()

    def format_dataset(self, run: Any, rows: Rows, processor: Letters) -> PreparedData:
        return self.change(formatted(rows), rows)

    def implementers(self, hook: str) -> list[str]:
        return ["shady"]


def rows_of(count: int, **more: Any) -> list[Row]:
    values = [{"question": f"what is the square of {n}?", "answer": f"the square is {n * n}"} for n in range(count)]
    return [Row(values={**value, **more}, origin=f"rows.jsonl:{n}") for n, value in enumerate(values, start=1)]


@pytest.fixture
def prepared(tmp_path):
    def go(change, rows=None):
        run = make_run(tmp_path, data={"validation": 0.2})
        return prepare(OneFormatter(rows or rows_of(20), change), run, lambda title: None)

    return go


def test_an_honest_formatter_passes(prepared) -> None:
    assert prepared(lambda data, rows: data).proved == 20


def test_a_row_may_not_vanish(prepared) -> None:
    def vanish(data, rows):
        ledger = Ledger(rows=19, trained=len(data.train) - 1, held_out=len(data.validation))
        return attrs.evolve(data, train=data.train[1:], ledger=ledger)

    with pytest.raises(PluginError, match="shady was given 20 rows, but its ledger says 19"):
        prepared(vanish)


def test_the_ledger_is_about_the_rows_that_came_back(prepared) -> None:
    def miscount(data, rows):
        return attrs.evolve(data, train=data.train[1:])

    with pytest.raises(PluginError, match="returned 15 trained rows, but its ledger says 16"):
        prepared(miscount)


def test_held_out_rows_are_not_trained(prepared) -> None:
    def swap(data, rows):
        return attrs.evolve(data, train=[*data.train[1:], data.validation[0]])

    with pytest.raises(PluginError, match="among the train rows, where it was given no such origin"):
        prepared(swap)


def test_a_dropped_row_is_accounted_for(prepared) -> None:
    def drop(data, rows):
        gone = Drop(origin=data.train[0].origin, reason="too long")
        ledger = attrs.evolve(data.ledger, trained=len(data.train) - 1, dropped=(gone,))
        return attrs.evolve(data, train=data.train[1:], ledger=ledger)

    assert prepared(drop).data.ledger.reasons == {"too long": 1}


def test_rows_that_are_the_same_to_the_model_stay_on_one_side(prepared) -> None:
    """An id column makes twins look different to the split."""
    rows = rows_of(20)
    twins = [Row(values={**row.values, "id": 1}, origin=f"more.jsonl:{n}") for n, row in enumerate(rows, start=1)]
    data = prepared(lambda data, rows: data, rows=[*rows, *twins]).data
    trained = {tuple(row.input_ids) for row in data.train}
    assert not [row for row in data.validation if tuple(row.input_ids) in trained]
    ledger = data.ledger
    assert ledger.reasons[TWIN] > 0
    assert ledger.rows == 40 == ledger.trained + ledger.held_out + len(ledger.dropped)


def test_a_formatter_that_trains_the_prompt_cannot_call_it_the_reply(prepared) -> None:
    """Labels and replies agree with each other, so only the raw row tells."""

    def train_all_but_the_first_token(data, rows):
        train = [example(row, trained_from=2) for row in rows.train]
        return attrs.evolve(data, train=train)

    with pytest.raises(
        RunError, match=r"'the square is .*' and 'what is the square .*' are trained and nothing is masked"
    ):
        prepared(train_all_but_the_first_token)


def test_a_collator_may_not_change_a_row(prepared) -> None:
    def mix(data, rows):
        def first_row_for_all(examples):
            return collate([examples[0]] * len(examples))

        return attrs.evolve(data, collate=first_row_for_all)

    with pytest.raises(RunError, match="the labels are wrong"):
        prepared(mix)


def test_a_collator_may_not_hide_the_prompt(prepared) -> None:
    def hide(data, rows):
        def without_prompt(examples):
            batch = collate(examples)
            for attended, labels in zip(batch["attention_mask"], batch["labels"], strict=True):
                attended[:] = [int(label != MASKED) for label in labels]
            return batch

        return attrs.evolve(data, collate=without_prompt)

    with pytest.raises(RunError, match=r"the first token is trained"):
        prepared(hide)
