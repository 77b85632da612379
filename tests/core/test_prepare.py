"""From raw rows to proved examples: what core counts, cuts, splits, keeps, and takes nobody's word for."""

from __future__ import annotations

import functools
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcore.data.encode import TOO_LONG
from ftcore.data.prepare import BROKEN, LEFT_OUT, TWIN, prepare
from ftcore.data.store import trained_bounds
from ftcore.discovery import Source
from ftcore.errors import PluginError, RowError, RunError
from ftcore.plugins import Active
from ftcore.testing import make_run
from ftcore.values import MASKED, Drop, Example, Format, Ledger, Part, Row, Rows, RowSource

END, IMAGE = 3, 5


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


@attrs.frozen
class Honest:
    """Formats rows; `change` spoils each answer."""

    change: Any = None

    def __call__(self, rows: Sequence[Row]) -> list[Any]:
        examples = [example(row) for row in rows]
        return self.change(examples) if self.change else examples


@attrs.frozen
class OneFormatter:
    """As much of a run's plugins as is asked for rows."""

    rows: Any
    encode: Any
    collate: Any = collate
    fingerprint: str = ""

    def load_rows(self, run: Any) -> RowSource:
        return self.rows if isinstance(self.rows, RowSource) else RowSource(parts=(Part(rows=self.rows),))

    def load_processor(self, run: Any, rows: Rows) -> Letters:
        return Letters()

    def format_dataset(self, run: Any, rows: Rows, processor: Letters) -> Format:
        return Format(
            encode=self.encode,
            collate=self.collate,
            processor=processor,
            end_of_turn=END,
            never_trained=frozenset({IMAGE}),
            fingerprint=self.fingerprint,
        )

    def active(self, hook: str) -> list[Any]:
        return []


def rows_of(count: int, **more: Any) -> list[Row]:
    values = [{"question": f"what is the square of {n}?", "answer": f"the square is {n * n}"} for n in range(count)]
    return [Row(values={**value, **more}, origin=f"rows.jsonl:{n}") for n, value in enumerate(values, start=1)]


@pytest.fixture
def prepared(tmp_path):
    def go(encode=None, rows=None, train=None, plugins=None, seed=42, **data):
        tables = {"data": {"validation": 0.2, **data}, "train": train or {}}
        run = make_run(tmp_path, run={"cache_dir": str(tmp_path / "cache"), "seed": seed}, **tables)
        return prepare(plugins or OneFormatter(rows or rows_of(20), encode or Honest()), run, lambda title: None)

    return go


def adds_up(ledger: Ledger) -> bool:
    return ledger.rows == ledger.trained + ledger.held_out + len(ledger.dropped)


def questions(examples: Sequence[Example]) -> list[str]:
    return ["".join(map(chr, each.input_ids)).split("\n")[0].removeprefix("Q ") for each in examples]


def test_an_honest_formatter_passes(prepared) -> None:
    done = prepared()
    assert done.proved == 20
    assert (len(done.data.train), len(done.data.validation)) == (16, 4)
    assert list(done.data.lengths) == [len(each.input_ids) for each in done.data.train]
    assert adds_up(done.data.ledger)


def test_what_comes_out_is_what_was_formatted(prepared) -> None:
    rows = rows_of(20)
    wanted = {each.origin: each for each in Honest()(rows)}
    data = prepared(rows=rows).data
    assert [attrs.asdict(each) for each in data.train] == [attrs.asdict(wanted[each.origin]) for each in data.train]


def test_names_that_are_no_unicode_come_back(prepared, tmp_path) -> None:
    folder = tmp_path / "\udcff"
    rows = [attrs.evolve(row, origin=f"\udcff.jsonl:{n}", folder=folder) for n, row in enumerate(rows_of(20))]
    first = prepared(Honest(lambda rows: [attrs.evolve(row, folder=folder) for row in rows]), rows=rows).data.train[0]
    assert first.origin.startswith("\\udcff.jsonl:")
    assert first.folder == folder


def test_features_and_folder_come_back(prepared, tmp_path) -> None:
    def with_features(examples):
        return [attrs.evolve(each, features={"images": ["\ud800", 1.5, None]}, folder=tmp_path) for each in examples]

    first = prepared(Honest(with_features)).data.train[0]
    assert first.features == {"images": ["\ud800", 1.5, None]}
    assert first.folder == tmp_path


def test_a_row_may_not_vanish(prepared) -> None:
    with pytest.raises(PluginError, match="encode was given 20 rows and answered 19"):
        prepared(Honest(lambda examples: examples[1:]))


def test_a_dropped_row_is_accounted_for(prepared) -> None:
    def drop_first(examples):
        return [Drop(origin=examples[0].origin, reason="too silly"), *examples[1:]]

    ledger = prepared(Honest(drop_first)).data.ledger
    assert ledger.reasons == {"too silly": 1}
    assert adds_up(ledger)


@pytest.mark.parametrize(
    "change",
    [
        lambda ids, labels: [*labels[1:], MASKED],  # shifted by one
        lambda ids, labels: labels[:-1],
        lambda ids, labels: [-1 if label == MASKED else label for label in labels],
    ],
)
def test_labels_that_are_not_the_tokens_of_their_places_are_not_mended(prepared, change) -> None:
    def spoil(examples):
        return [attrs.evolve(each, labels=change(each.input_ids, each.labels)) for each in examples]

    with pytest.raises(PluginError, match=r"encode failed at .*rows.jsonl:1: a row needs a label for each token"):
        prepared(Honest(spoil))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: None, "encode answered a NoneType for rows.jsonl:1, not an Example or a Drop"),
        (lambda each: 1 / 0, "encode failed at rows.jsonl:1: ZeroDivisionError: division by zero"),
        (lambda each: sys.exit(0), "encode failed at rows.jsonl:1 to rows.jsonl:20: SystemExit: 0"),
        (lambda each: Path("/no/such").read_text(), "encode failed at rows.jsonl:1: FileNotFoundError"),
    ],
)
def test_a_formatter_that_fails_is_named_with_the_row(prepared, change, said) -> None:
    with pytest.raises(PluginError, match=f"format_dataset: {said}"):
        prepared(Honest(lambda examples: [change(each) for each in examples]))


def test_the_row_that_fails_among_many_is_named(prepared) -> None:
    def fail(examples):
        return [1 / 0 if "of 7?" in questions([each])[0] else each for each in examples]

    with pytest.raises(PluginError, match=r"encode failed at rows.jsonl:8: ZeroDivisionError"):
        prepared(Honest(fail))


def test_a_failure_in_another_process_is_named_too(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("light")))
    import light_plugins

    rows = [Row(values={"prompt": f"{n}?", "reply": n if n == 6000 else "x"}, origin=f"r:{n}") for n in range(10_000)]
    encode = functools.partial(light_plugins.encoded, train_prompt=False)
    run = make_run(tmp_path, data={"workers": 2})
    with pytest.raises(PluginError, match="encode failed at r:6000: TypeError"):
        prepare(OneFormatter(rows, encode, light_plugins.collate), run, lambda title: None)


def test_rows_that_teach_nothing_are_no_row_to_train(prepared) -> None:
    def mask_all(examples):
        return [attrs.evolve(each, labels=[MASKED] * len(each.labels), replies=()) for each in examples]

    with pytest.raises(RunError, match="no token is trained, so the row teaches nothing; drop it"):
        prepared(Honest(mask_all))


def test_when_every_row_is_dropped_the_error_says_why(prepared) -> None:
    def drop_all(examples):
        return [Drop(origin=each.origin, reason="too silly") for each in examples]

    with pytest.raises(RunError, match=r"nothing left to train: all training rows were dropped \(too silly: 20\)"):
        prepared(Honest(drop_all))


def test_rows_that_are_the_same_to_the_model_stay_on_one_side(prepared) -> None:
    """An id column makes twins look different to the split."""
    rows = rows_of(20)
    twins = [Row(values={**row.values, "id": 1}, origin=f"more.jsonl:{n}") for n, row in enumerate(rows, start=1)]
    data = prepared(rows=[*rows, *twins]).data
    trained = {tuple(row.input_ids) for row in data.train}
    assert not [row for row in data.validation if tuple(row.input_ids) in trained]
    assert data.ledger.reasons[TWIN] > 0
    assert data.ledger.rows == 40
    assert adds_up(data.ledger)


def test_a_formatter_that_trains_the_prompt_cannot_call_it_the_reply(prepared) -> None:
    """Labels and replies agree with each other, so only the raw row tells."""

    def train_all_but_the_first_token(rows):
        return [example(row, trained_from=2) for row in rows]

    with pytest.raises(
        RunError, match=r"'the square is .*' and 'what is the square .*' are trained and nothing is masked"
    ):
        prepared(train_all_but_the_first_token)


def test_a_collator_may_not_change_a_row(prepared) -> None:
    def first_row_for_all(examples):
        return collate([examples[0]] * len(examples))

    with pytest.raises(RunError, match="the labels are wrong"):
        prepared(plugins=OneFormatter(rows_of(20), Honest(), first_row_for_all))


def test_a_collator_may_not_hide_the_prompt(prepared) -> None:
    def without_prompt(examples):
        batch = collate(examples)
        for attended, labels in zip(batch["attention_mask"], batch["labels"], strict=True):
            attended[:] = [int(label != MASKED) for label in labels]
        return batch

    with pytest.raises(RunError, match=r"the labels are wrong"):
        prepared(plugins=OneFormatter(rows_of(20), Honest(), without_prompt))


def test_a_row_must_be_a_row(prepared) -> None:
    with pytest.raises(PluginError, match="load_rows: row 0 is a str; every row must be a Row"):
        prepared(rows=["a string"])


# Broken rows


class Torn(list):
    """Rows some of which cannot be read."""

    def __getitem__(self, place):
        row = super().__getitem__(place)
        if row.values.get("torn"):
            raise RowError("is torn", origin=row.origin, raw="{torn")
        return row


def torn(count: int, *places: int) -> Torn:
    rows = rows_of(count)
    return Torn(attrs.evolve(row, values={"torn": True}) if n in places else row for n, row in enumerate(rows))


def refuse_squares_of_seven(examples):
    for each in examples:
        if "square of 7?" in questions([each])[0]:
            raise RowError("is about seven", origin=each.origin)
    return examples


def test_one_broken_row_ends_the_run_by_its_name(prepared) -> None:
    with pytest.raises(RunError, match=r"^rows.jsonl:4: is torn$"):
        prepared(rows=torn(20, 3))


def test_broken_rows_up_to_a_number_are_set_aside_with_their_reason(prepared, tmp_path) -> None:
    data = prepared(Honest(refuse_squares_of_seven), rows=torn(20, 3, 11), max_bad_rows=3).data
    assert data.ledger.reasons == {BROKEN: 3}
    assert data.ledger.rows == 20
    assert adds_up(data.ledger)
    aside = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text("utf-8").splitlines()]
    assert [(row["origin"], row["reason"]) for row in aside] == [
        ("rows.jsonl:4", "is torn"),
        ("rows.jsonl:12", "is torn"),
        ("rows.jsonl:8", "is about seven"),
    ]
    assert aside[0]["raw"] == "{torn"


def test_one_more_is_an_error_that_counts(prepared) -> None:
    with pytest.raises(RunError, match=r"rows.jsonl:8: is about seven; this is broken row 3, over .* \(2\)"):
        prepared(Honest(refuse_squares_of_seven), rows=torn(20, 3, 11), max_bad_rows=2)


def places(examples) -> list[int]:
    return [int(each.origin.rpartition(":")[2]) - 1 for each in examples]


def test_no_more_rows_are_read_than_asked_for_and_each_part_gives_its_share(prepared) -> None:
    rows = rows_of(60)
    parts = tuple(Part(rows=rows[start : start + 20], weight=1 + (start == 20)) for start in (0, 20, 40))
    done = prepared(rows=RowSource(parts=parts), max_rows=12, validation=0).data
    read = sorted({*places(done.train)})
    assert [place // 5 for place in read] == list(range(12)), "one of each stretch, in the order of the rows"
    assert done.ledger.rows == 12
    assert done.ledger.repeated == 4, "a weight counts as without it"
    assert any(place % 5 for place in read), "drawn, not counted off"
    again = prepared(rows=RowSource(parts=parts), max_rows=12, validation=0).data
    assert sorted({*places(again.train)}) == read
    other = prepared(rows=RowSource(parts=parts), max_rows=12, validation=0, seed=1).data
    assert sorted({*places(other.train)}) != read


def test_another_seed_reads_other_rows_though_those_of_the_first_were_kept(prepared) -> None:
    def read(seed: int, **data: Any) -> list[int]:
        source = RowSource(parts=(Part(rows=rows_of(60)),), fingerprint="a")
        return places(prepared(rows=source, seed=seed, validation=0, **data).data.train)

    assert read(1, max_rows=12) != read(2, max_rows=12)
    assert read(1, max_rows=60) == read(2) == list(range(60))


def test_a_broken_row_among_those_asked_for_is_counted_and_no_other_is(prepared) -> None:
    places_read = places(prepared(rows=rows_of(20), max_rows=5, validation=0).data.train)
    others = [place for place in range(20) if place not in places_read]
    done = prepared(rows=torn(20, places_read[2], *others), max_rows=5, max_bad_rows=1, validation=0).data
    assert places(done.train) == [*places_read[:2], *places_read[3:]]
    assert (done.ledger.rows, done.ledger.reasons) == (5, {BROKEN: 1})


def test_an_earlier_run_that_bore_more_changes_nothing(prepared) -> None:
    plugins = OneFormatter(torn(20, 3), Honest(refuse_squares_of_seven), fingerprint="a")
    assert prepared(plugins=plugins, max_bad_rows=2).data.ledger.reasons == {BROKEN: 2}
    with pytest.raises(RunError, match=r"rows.jsonl:8: is about seven; this is broken row 2, over .* \(1\)"):
        prepared(plugins=plugins, max_bad_rows=1)


def test_held_out_rows_of_the_source_are_all_read(prepared) -> None:
    held = Torn(attrs.evolve(row, origin=f"held.{row.origin}") for row in torn(8, 2))
    held[3:] = [attrs.evolve(row, values={**row.values, "question": "what?"}) for row in [*held][3:]]
    source = RowSource(parts=(Part(rows=rows_of(5)), Part(rows=[])), validation=held)
    data = prepared(rows=source, max_rows=4, max_bad_rows=1).data
    assert len(data.train) == 4
    assert data.ledger.rows == 4 + 8
    assert data.ledger.reasons[BROKEN] == 1
    assert adds_up(data.ledger)


class Failing(list):
    def __getitem__(self, place):
        raise KeyError("a bug")


def test_a_reader_that_fails_is_named(prepared) -> None:
    with pytest.raises(PluginError, match="load_rows: row 0: KeyError: 'a bug'"):
        prepared(rows=Failing(rows_of(3)))


# Long rows


def long_last(examples):
    return [attrs.evolve(e, input_ids=[81, *[90] * 50, *e.input_ids[1:]], labels=[*[MASKED] * 50, *e.labels])
            if "of 3?" in questions([e])[0] else e for e in examples]  # fmt: skip


def test_long_rows_are_dropped_and_counted(prepared) -> None:
    ledger = prepared(Honest(long_last), train={"max_length": 80}).data.ledger
    assert ledger.reasons == {TOO_LONG: 1}
    assert adds_up(ledger)


def test_long_rows_are_an_error_on_request(prepared) -> None:
    with pytest.raises(RunError, match=r"rows.jsonl:4: the row has \d+ tokens, over train.max_length \(80\)"):
        prepared(Honest(long_last), train={"max_length": 80}, long_rows="error")


def test_cutting_takes_from_the_prompt_after_the_first_token_and_never_from_the_reply(prepared) -> None:
    data = prepared(Honest(long_last), train={"max_length": 80}, long_rows="cut", validation=0).data
    cut = data.train[3]
    assert len(cut.input_ids) == 80
    assert chr(cut.input_ids[0]) == "Q"
    assert "".join(map(chr, cut.input_ids[1:])).endswith("of 3?\nthe square is 9\x03")
    assert cut.replies == ("the square is 9",)


def test_a_reply_that_is_too_long_by_itself_is_dropped_not_cut(prepared) -> None:
    data = prepared(train={"max_length": 18}, long_rows="cut", validation=0).data
    assert all(len(each.input_ids) <= 18 for each in data.train)
    assert data.ledger.reasons[TOO_LONG] > 0


def test_a_row_with_an_image_is_never_cut(prepared) -> None:
    def with_image(examples):
        return [attrs.evolve(e, input_ids=[e.input_ids[0], IMAGE, *e.input_ids[1:]], labels=[MASKED, *e.labels])
                for e in long_last(examples)]  # fmt: skip

    data = prepared(Honest(with_image), train={"max_length": 81}, long_rows="cut", validation=0).data
    assert data.ledger.reasons == {TOO_LONG: 1}


def test_a_row_with_a_feature_of_each_token_is_never_cut(prepared) -> None:
    def with_types(examples):
        return [attrs.evolve(e, features={"token_type_ids": [0] * len(e.input_ids)}) for e in long_last(examples)]

    data = prepared(Honest(with_types), train={"max_length": 80}, long_rows="cut", validation=0).data
    assert data.ledger.reasons == {TOO_LONG: 1}


# Sides, groups, weights and columns


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["", "torn", "refused", "dropped", "long", "twin"]), min_size=4, max_size=40),
    weights=st.tuples(*[st.sampled_from([0.3, 1.0, 2.5])] * 2),
    held=st.integers(0, 10),
    max_rows=st.none() | st.integers(1, 30),
    validation=st.sampled_from([0, 0.3]),
    group=st.booleans(),
)
def test_every_row_is_counted_once_whatever_becomes_of_it(kinds, weights, held, max_rows, validation, group) -> None:
    rows = Torn(
        Row(
            values={"question": f"{kind} {0 if kind == 'twin' else n}", "answer": "yes", "id": n, "module": n % 3}
            | ({"torn": True} if kind == "torn" else {}),
            origin=f"r:{n}",
        )
        for n, kind in enumerate(kinds)
    )

    def spoil(row):
        kind = row.values["question"].split()[0]
        if kind == "refused":
            raise RowError("is refused", origin=row.origin)
        if kind == "dropped":
            return Drop(origin=row.origin, reason="too silly")
        return (
            example(attrs.evolve(row, values={**row.values, "question": "x" * 90})) if kind == "long" else example(row)
        )

    end = len(rows) - held if held < len(rows) - 1 else len(rows)
    middle = end // 2
    parts = tuple(
        Part(rows=Torn([*rows][start:stop]), weight=weight)
        for (start, stop), weight in zip(((0, middle), (middle, end)), weights, strict=True)
    )
    source = RowSource(parts=parts, validation=Torn([*rows][end:]))
    data = {"validation": validation, "max_bad_rows": 50, "group": "module" if group else ""}
    if max_rows:
        data["max_rows"] = max_rows
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), data=data, train={"max_length": 80})
        plugins = OneFormatter(source, lambda rows: [spoil(row) for row in rows])
        try:
            done = prepare(plugins, run, lambda title: None).data
        except RunError as error:
            assert re.search("nothing|held-out rows (are twins|were dropped)", str(error))  # noqa: PT017
            return
        times = Counter(each.origin for each in done.train)
        where = [*times, *(each.origin for each in done.validation), *(drop.origin for drop in done.ledger.dropped)]
    assert len(where) == len(set(where)) == done.ledger.rows
    assert set(where) >= {row.origin for row in [*rows][end:]}
    assert max_rows is not None or len(where) == len(rows)
    assert sum(times.values()) == done.ledger.trained + done.ledger.repeated
    trained = {tuple(each.input_ids) for each in done.train}
    assert not [each for each in done.validation if tuple(each.input_ids) in trained]


def test_pictures_of_one_name_in_two_folders_are_no_twins(prepared, tmp_path) -> None:
    def with_picture(folder):
        ids = [IMAGE, *map(ord, "Q?\nyes"), END]
        labels = [*[MASKED] * 4, *ids[4:]]
        return lambda row: Example(
            input_ids=ids,
            labels=labels,
            replies=("yes",),
            origin=row.origin,
            features={"image": "a.png"},
            folder=row.folder,
        )

    rows = [Row(values={"n": n}, origin=f"r:{n}", folder=tmp_path / str(n)) for n in range(10)]
    encode = with_picture(tmp_path)
    data = prepared(lambda rows: [encode(row) for row in rows], rows=rows).data
    assert (len(data.train), len(data.validation)) == (8, 2)
    same = [attrs.evolve(row, folder=tmp_path) for row in rows]
    assert prepared(lambda rows: [encode(row) for row in rows], rows=same).data.ledger.reasons == {TWIN: 2}


def test_rows_of_a_group_are_held_out_together(prepared) -> None:
    rows = [attrs.evolve(row, values={**row.values, "module": n % 5}) for n, row in enumerate(rows_of(40))]
    data = prepared(rows=rows, group="module").data
    sides = [{int(each.origin.partition(":")[2]) % 5 for each in side} for side in (data.train, data.validation)]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_a_group_that_a_row_lacks_is_an_error(prepared) -> None:
    with pytest.raises(RunError, match=r"data.group: rows.jsonl:1 has no column 'module'; it has question, answer"):
        prepared(group="module")


def test_a_source_that_brings_its_held_out_rows_keeps_them_apart(prepared) -> None:
    rows = rows_of(20)
    source = RowSource(parts=(Part(rows=rows[:15]),), validation=rows[10:])
    data = prepared(rows=source).data
    assert len(data.train) == 15, "no share is held out on top"
    assert questions(data.validation) == [f"what is the square of {n}?" for n in range(15, 20)]
    assert data.ledger.reasons == {TWIN: 5}
    assert adds_up(data.ledger)


def test_a_weight_says_how_often_rows_come(prepared) -> None:
    rows = rows_of(300)
    parts = (Part(rows=rows[:100], weight=2.5), Part(rows=rows[100:200]), Part(rows=rows[200:], weight=0.25))
    data = prepared(rows=RowSource(parts=parts), validation=0).data
    times = Counter(each.origin for each in data.train)
    of_part = [[times[row.origin] for row in part.rows] for part in parts]
    assert set(of_part[0]) == {2, 3}
    assert 230 < sum(of_part[0]) < 270
    assert of_part[1] == [1] * 100
    assert set(of_part[2]) == {0, 1}
    assert 10 < sum(of_part[2]) < 40
    ledger = data.ledger
    assert ledger.reasons == {LEFT_OUT: 100 - sum(of_part[2])}
    assert adds_up(ledger)
    assert len(data.train) == ledger.trained + ledger.repeated == len(data.lengths)


def test_columns_are_renamed_for_every_format(prepared) -> None:
    rows = [
        attrs.evolve(row, values={"q": row.values["question"], "answer": row.values["answer"]}) for row in rows_of(9)
    ]
    assert len(prepared(rows=rows, columns={"question": "q"}).data.train) == 7


# Processes and the cache


def test_other_processes_give_the_same_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("light")))
    import light_plugins

    rows = [Row(values={"prompt": f"{n}?", "reply": f"{n * n}."}, origin=f"r:{n}") for n in range(10_000)]
    encode = functools.partial(light_plugins.encoded, train_prompt=False)
    plugins = OneFormatter(rows, encode, light_plugins.collate)
    found = []
    for workers in (1, 2):
        run = make_run(tmp_path, data={"validation": 0.1, "workers": workers})
        data = prepare(plugins, run, lambda title: None).data
        found.append([(each.origin, each.input_ids, each.labels) for each in [*data.train, *data.validation]])
        assert len(list((tmp_path / ".prepared").glob("*.arrow"))) == 3
    assert found[0] == found[1]


@attrs.define
class Counting:
    calls: int = 0

    def __call__(self, rows):
        self.calls += len(rows)
        return [example(row) for row in rows]


def test_what_was_formatted_once_is_not_formatted_again(prepared) -> None:
    encode = Counting()
    seen = []
    for seed_rows, fingerprint, max_length in (
        (rows_of(20), "a", 100),  # fresh
        (rows_of(20), "a", 100),  # kept
        (rows_of(20), "b", 100),  # another tokenizer
        (rows_of(20), "a", 90),  # another limit
        (rows_of(21), "a", 100),  # other rows
        (rows_of(20), "a", 100),  # kept still
    ):
        plugins = OneFormatter(seed_rows, encode, collate, fingerprint)
        data = prepared(plugins=plugins, train={"max_length": max_length}).data
        seen.append(encode.calls)
        assert len(data.train) + len(data.validation) == len(seed_rows)
    assert seen == [20, 20, 40, 60, 81, 81]


@attrs.frozen
class Identified(OneFormatter):
    """With the plugins that a run would have, as far as the cache asks for them."""

    plugins: Any = ()

    def active(self, hook: str) -> list[Any]:
        return [plugin for plugin in self.plugins if plugin.cls is CLASSES[hook]]


class Reads:
    """A plugin."""


class Formats:
    """Another one."""


CLASSES = {"load_rows": Reads, "format_dataset": Formats}


@attrs.frozen
class Options:
    size: int = 1


@pytest.mark.parametrize("changed", ["load_rows", "format_dataset"])
def test_what_another_plugin_made_is_not_taken(prepared, changed, monkeypatch) -> None:
    """Its name, its version, its options, the libraries it asks for: rows are read and formatted again."""
    wanted = {"one": ["pyarrow>=1; extra == 'x'", "nobody_has_this"]}
    monkeypatch.setattr("ftcore.data.keys.requires", lambda name: wanted[name])
    versions = {"pyarrow": "1"}
    monkeypatch.setattr("ftcore.data.keys.version", lambda name: versions[name] if name in versions else missing(name))
    encode, source, done = Counting(), Listed(rows_of(20)), [0]

    def go(version="1", options=None):
        plugins = [plugin_of(CLASSES[hook], "1", Options()) for hook in CLASSES if hook != changed]
        plugins.append(plugin_of(CLASSES[changed], version, options or Options()))
        rows = RowSource(parts=(Part(rows=source),), fingerprint="f")
        prepared(plugins=Identified(rows, encode, collate, "a", plugins))
        done.append(source.read + encode.calls)
        return done[-1] - done[-2]

    fresh, kept, *others = go(), go(), go(version="2"), go(options=Options(2))
    assert kept == 20, "only the proof reads rows"
    versions["pyarrow"] = "2"
    assert all(kept < work <= fresh for work in [*others, go()])


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


class Listed(list):
    """Rows that count how often one is read."""

    read = 0

    def __getitem__(self, place):
        self.read += 1
        return super().__getitem__(place)


def plugin_of(cls: type, version: str, options: Options) -> Active:
    entry = EntryPoint(name=cls.__name__, value="x:y", group="g")
    source = Source(name=cls.__name__, target="x:y", distribution="one", version=version, entry_point=entry)
    return Active(source=source, cls=cls, config=options)


def test_a_formatter_that_fails_is_named_as_a_plugin(prepared) -> None:
    plugins = Identified(rows_of(3), lambda rows: 1 / 0, plugins=[plugin_of(Formats, "1.2", Options())])
    with pytest.raises(PluginError, match=r"^plugin Formats \(one 1.2\): encode failed at rows.jsonl:1: ZeroDivision"):
        prepared(plugins=plugins)


def test_without_a_fingerprint_nothing_is_kept(prepared, tmp_path) -> None:
    encode = Counting()
    for _ in range(2):
        prepared(encode)
    assert encode.calls == 40
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fingerprint", ["", "a"])
def test_a_full_disk_is_a_sentence(prepared, monkeypatch, fingerprint) -> None:
    def full(writer, examples):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftcore.data.store.Writer.write", full)
    with pytest.raises(RunError, match=r"no room for prepared rows in .*; .*set run\.(output|cache)_dir"):
        prepared(plugins=OneFormatter(rows_of(3), Honest(), fingerprint=fingerprint))


@pytest.mark.parametrize(
    ("labels", "bounds"),
    [
        ([], []),
        ([MASKED], []),
        ([0], [0, 1]),
        ([MASKED, 1, 1, MASKED, 0], [1, 3, 4, 5]),
        ([1, MASKED, MASKED, 1, 1], [0, 1, 3, 5]),
    ],
)
def test_the_bounds_of_trained_spans(labels, bounds) -> None:
    assert trained_bounds(labels) == bounds


def test_data_that_was_moved_is_the_same_data_but_its_rows_lie_elsewhere(prepared, tmp_path) -> None:
    """A run may go on with it; what was kept names files by their folder, so it is made again."""
    encode = Counting()
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        rows = [attrs.evolve(row, folder=folder) for row in rows_of(20)]
        found.append(prepared(plugins=OneFormatter(rows, encode, collate, "a")).fingerprint)
    assert found[0] == found[1]
    assert encode.calls == 40


# What a user or a plugin's author gets wrong


def test_a_renamed_column_that_no_row_has_is_an_error(prepared) -> None:
    with pytest.raises(RunError, match=r"data.columns: question is to be 'q', which no row has; there are .*answer"):
        prepared(rows=[Row(values={"answer": "a", "ask": "b"}, origin="x")], columns={"question": "q"}, validation=0)


def test_held_out_rows_that_are_all_trained_on_are_an_error(prepared) -> None:
    source = RowSource(parts=(Part(rows=rows_of(9)),), validation=rows_of(3))
    with pytest.raises(RunError, match="all 3 held-out rows are twins of training rows; name other rows to hold out"):
        prepared(rows=source)


def test_held_out_rows_that_are_all_trained_on_cannot_be_evaluated_on(prepared) -> None:
    """They differ in an id alone."""
    rows = [Row(values={**row.values, "id": n}, origin=f"r:{n}") for n, row in enumerate(rows_of(2) * 10)]
    assert not prepared(rows=rows, validation=0.3).data.validation, "nobody asked for an evaluation"
    message = "all 6 held-out rows are twins of training rows; set data.group to a column whose values twins share"
    with pytest.raises(RunError, match=message):
        prepared(rows=rows, validation=0.3, train={"eval_steps": 3})
    assert prepared(rows=rows, validation=0.3, train={"eval_steps": 3}, group="question").data.validation


def test_held_out_rows_that_are_all_dropped_cannot_be_evaluated_on(prepared) -> None:
    long = Row(values={"question": "x" * 90, "answer": "y"}, origin="held:1")
    source = RowSource(parts=(Part(rows=rows_of(9)),), validation=[long])
    with pytest.raises(RunError, match=r"all 1 held-out rows were dropped \(longer than train.max_length: 1\); mend"):
        prepared(rows=source, train={"max_length": 80})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda examples: examples[::-1], r"answered rows.jsonl:20 for rows.jsonl:1; .* in the rows' order"),
        (
            lambda examples: [attrs.evolve(each, input_ids=[-1, *each.input_ids[1:]]) for each in examples],
            "answered a negative token for rows.jsonl:1",
        ),
    ],
)
def test_answers_that_cannot_be_right_name_the_row(prepared, change, said) -> None:
    with pytest.raises(PluginError, match=said):
        prepared(Honest(change))
