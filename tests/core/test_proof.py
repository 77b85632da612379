"""The label mask is proved on real rows: every way to get it wrong is found, and nothing right is refused."""

from __future__ import annotations

import random

import attrs
import pytest

from ftcore.data.proof import SAMPLE, prove_labels, show_labels, trained_spans
from ftcore.errors import PluginError, RunError
from ftcore.values import MASKED, Example, Ledger, PreparedData, Row
from light_plugins import END, PAD, Characters, Tensor, collate, example

IMAGE = 5


def dialogue(*turns: tuple[str, str], origin: str = "x:1") -> Example:
    """Several prompts and replies in one row."""
    ids, labels = [], []
    for prompt, reply in turns:
        ids += [*map(ord, prompt), *map(ord, reply), END]
        labels += [*[MASKED] * len(prompt), *map(ord, reply), END]
    return Example(input_ids=ids, labels=labels, replies=tuple(reply for _, reply in turns), origin=origin)


def data(*examples: Example, collate=collate, validation=(), trains="replies") -> PreparedData:
    ledger = Ledger(rows=len(examples) + len(validation), trained=len(examples), held_out=len(validation))
    return PreparedData(
        train=examples,
        validation=validation,
        lengths=[len(example.input_ids) for example in examples],
        collate=collate,
        ledger=ledger,
        end_of_turn=END,
        never_trained=frozenset({IMAGE}),
        trains=trains,
    )


def prove(*examples: Example, **options) -> int:
    return prove_labels(data(*examples, **options), Characters(), seed=0)


def fault(*examples: Example, **options) -> str:
    with pytest.raises(RunError) as caught:
        prove(*examples, **options)
    return str(caught.value)


def relabelled(row: Example, change) -> Example:
    labels = list(row.labels)
    change(labels)
    return attrs.evolve(row, labels=labels)


GOOD = dialogue(("user: hi\n", "hello"))
LONGER = dialogue(("user: what is 2 + 2?\n", "four"), ("user: sure?\n", "yes"), origin="x:2")


# -- right labels ---------------------------------------------------------------------------------


def test_right_labels_are_proved_padding_and_all():
    assert prove(GOOD, LONGER) == 2


def test_held_out_rows_are_proved_too():
    assert prove(GOOD, validation=(LONGER,)) == 2
    broken = relabelled(LONGER, lambda labels: labels.__setitem__(0, LONGER.input_ids[0]))
    assert fault(GOOD, validation=(broken,)).startswith("x:2: the labels are wrong: ")


def test_a_processor_with_a_tokenizer_inside_is_decoded_by_it():
    class Processor:
        tokenizer = Characters()

    assert prove_labels(data(GOOD), Processor(), seed=0) == 1


def test_a_reply_may_begin_and_end_with_spaces():
    assert prove(dialogue(("p", "  code\n "))) == 1


def test_a_reply_that_is_empty_trains_silence():
    assert "the reply is empty" in fault(dialogue(("p", "")))


def test_padding_on_the_left_is_as_good():
    def padded_left(examples):
        longest = max(len(row.input_ids) for row in examples)

        def pad(values, filler):
            return [*[filler] * (longest - len(values)), *values]

        return {
            "input_ids": Tensor([pad(row.input_ids, PAD) for row in examples]),
            "labels": Tensor([pad(row.labels, MASKED) for row in examples]),
            "attention_mask": Tensor([pad([1] * len(row.input_ids), 0) for row in examples]),
        }

    assert prove(GOOD, LONGER, collate=padded_left) == 2


# -- wrong labels ---------------------------------------------------------------------------------


def test_the_prompt_is_trained():
    row = attrs.evolve(GOOD, labels=GOOD.input_ids)
    assert "the trained tokens read 'user: hi\\nhello', but the reply is 'hello'" in fault(row)


def test_one_token_of_the_prompt_is_trained():
    row = relabelled(GOOD, lambda labels: labels.__setitem__(0, GOOD.input_ids[0]))
    assert "2 spans are trained, but the row has 1 replies" in fault(row)


def test_the_last_token_of_the_prompt_is_trained():
    start = GOOD.labels.index(ord("h"))
    row = relabelled(GOOD, lambda labels: labels.__setitem__(start - 1, GOOD.input_ids[start - 1]))
    assert "the trained tokens read '\\nhello', but the reply is 'hello'" in fault(row)


def test_nothing_is_trained():
    assert "0 spans are trained, but the row has 1 replies" in fault(attrs.evolve(GOOD, labels=[MASKED] * 15))


def test_the_end_of_turn_is_not_trained():
    row = relabelled(GOOD, lambda labels: labels.__setitem__(-1, MASKED))
    text = fault(row)
    assert "the last trained token is 'o', not the end-of-turn token '\\x03'; the model would never stop" in text


def test_the_end_of_turn_is_missing_from_the_row():
    row = attrs.evolve(GOOD, input_ids=GOOD.input_ids[:-1], labels=GOOD.labels[:-1])
    assert "the model would never stop" in fault(row)


def test_a_reply_may_end_with_any_of_the_ends_of_its_format():
    call, inner = ord("}"), ord(";")
    ids = [*map(ord, "hi? {x}hi? y;hi? z"), END]
    labels = [MASKED] * 4 + ids[4:7] + [MASKED] * 4 + ids[11:13] + [MASKED] * 4 + ids[17:]
    row = Example(input_ids=ids, labels=labels, replies=("{x", "y", "z"), origin="x:1")
    ends = {"other_ends": frozenset({call}), "inner_ends": frozenset({inner})}
    assert prove_labels(attrs.evolve(data(row), **ends), Characters(), seed=0) == 1
    assert attrs.evolve(data(row), **ends).stops == (END, call)
    for name in ends:
        some = {other: tokens for other, tokens in ends.items() if other != name}
        with pytest.raises(RunError, match=r"the last trained token is '[};]', not the end-of-turn token .* or '[};]'"):
            prove_labels(attrs.evolve(data(row), **some), Characters(), seed=0)


def test_the_first_token_of_the_reply_is_not_trained():
    row = relabelled(GOOD, lambda labels: labels.__setitem__(labels.index(ord("h")), MASKED))
    assert "the trained tokens read 'ello', but the reply is 'hello'" in fault(row)


def test_a_hole_in_the_reply():
    row = relabelled(GOOD, lambda labels: labels.__setitem__(len(labels) - 3, MASKED))
    assert "2 spans are trained, but the row has 1 replies" in fault(row)


def test_only_the_last_of_two_replies_is_trained():
    def mask_first(labels):
        first = next(trained_spans(labels))
        for position in first:
            labels[position] = MASKED

    assert "1 spans are trained, but the row has 2 replies" in fault(relabelled(LONGER, mask_first))


def test_replies_in_the_wrong_order():
    row = attrs.evolve(LONGER, replies=LONGER.replies[::-1])
    assert "the trained tokens read 'four', but the reply is 'yes'" in fault(row)


def test_labels_shifted_by_one():
    row = attrs.evolve(GOOD, labels=[*GOOD.labels[1:], MASKED])
    assert "but its label is" in fault(row)


def test_a_label_that_is_another_token():
    row = relabelled(GOOD, lambda labels: labels.__setitem__(-2, ord("z")))
    assert f"token 13 is {ord('o')}, but its label is {ord('z')}; a label is the token itself or -100" in fault(row)


def test_an_image_token_is_trained():
    row = dialogue(("look: ", f"a{chr(IMAGE)}b"))
    assert "token 7 must never be trained (an image token, say), but it is" in fault(row)


def test_an_image_token_in_the_prompt_is_fine():
    assert prove(dialogue((f"look: {chr(IMAGE) * 3}", "a cat"))) == 1


def test_padding_is_trained():
    def trains_padding(examples):
        batch = collate(examples)
        labels = [
            [token if not seen else label for token, label, seen in zip(*row, strict=True)]
            for row in zip(*(batch[name].tolist() for name in ("input_ids", "labels", "attention_mask")), strict=True)
        ]
        return {**batch, "labels": Tensor(labels)}

    assert "is padding, but it is trained" in fault(GOOD, LONGER, collate=trains_padding)


def test_padding_with_the_end_of_turn_that_is_trained():
    """The classic: the pad token is the end-of-turn token, and every padded place is trained."""

    def pads_with_end(examples):
        longest = max(len(row.input_ids) for row in examples)
        return {
            "input_ids": Tensor([[*row.input_ids, *[END] * (longest - len(row.input_ids))] for row in examples]),
            "labels": Tensor([[*row.labels, *[END] * (longest - len(row.labels))] for row in examples]),
            "attention_mask": Tensor([[1] * longest for _ in examples]),
        }

    assert "the trained tokens read 'hello\\x03" in fault(GOOD, LONGER, collate=pads_with_end)


def test_a_collator_that_truncates():
    def truncates(examples):
        return {name: Tensor([row[:12] for row in tensor.tolist()]) for name, tensor in collate(examples).items()}

    assert "the model would never stop" in fault(GOOD, collate=truncates)


def test_a_collator_that_masks_what_the_formatter_trained():
    def masks(examples):
        batch = collate(examples)
        return {**batch, "labels": Tensor([[MASKED] * len(row) for row in batch["labels"].tolist()])}

    assert "0 spans are trained" in fault(GOOD, collate=masks)


def test_two_assistant_turns_without_anything_between_them():
    row = dialogue(("p", "one"), ("", "two"))
    assert "1 spans are trained, but the row has 2 replies" in fault(row)


def changed(name: str, position: int, value: int):
    """A collator that gives the model another number at one place of the last row."""

    def collator(examples):
        rows = collate(examples)[name].tolist()
        rows[-1][position] = value
        return {**collate(examples), name: Tensor(rows)}

    return collator


@pytest.mark.parametrize(
    ("change", "tokens"),
    [(("input_ids", 2, ord("z")), 15), (("attention_mask", 2, 0), 14)],
    ids=["another token", "a token that the model cannot see"],
)
def test_a_collator_that_changes_the_prompt_under_labels_that_are_right(change, tokens):
    text = f"x:1: the labels are wrong: the collator gives the model {tokens} tokens that are not the row's own 15\n"
    assert fault(GOOD, collate=changed(*change)).startswith(text)


def test_a_collator_that_labels_what_the_formatter_left_out():
    """As one that finds the reply by itself: what the formatter says is then not what is trained."""
    wrong = relabelled(GOOD, lambda labels: labels.__setitem__(-2, MASKED))
    text = "the collator gives the model other labels than the formatter made"
    assert text in fault(wrong, collate=changed("labels", -2, GOOD.labels[-2]))


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: {name: Tensor(tensor.tolist()[:-1]) for name, tensor in batch.items()},
        lambda batch: {"input_ids": batch["input_ids"], "labels": batch["labels"]},
        lambda batch: {**batch, "labels": Tensor([row[:-1] for row in batch["labels"].tolist()])},
        lambda batch: None,
        lambda batch: {name: tensor.tolist() for name, tensor in batch.items()},
    ],
    ids=["a row lost", "no attention mask", "labels too short", "no batch", "lists instead of tensors"],
)
def test_a_collator_that_breaks_its_promise_is_one_error(change):
    with pytest.raises(PluginError, match="the collator must give tensors input_ids, labels and attention_mask"):
        prove(GOOD, LONGER, collate=lambda examples: change(collate(examples)))


def test_a_collator_that_raises_on_purpose_speaks_for_itself():
    def refuses(examples):
        raise RunError(f"{examples[0].origin}: the image is gone")

    assert fault(GOOD, collate=refuses) == "x:1: the image is gone"


def test_no_rows_at_all():
    assert fault() == "nothing to train on: the formatter kept no rows"


# -- every token is trained -----------------------------------------------------------------------


TEXT = [*map(ord, "ab"), IMAGE, *map(ord, " c"), END]
WHOLE = Example(input_ids=TEXT, labels=[MASKED, ord("b"), MASKED, *TEXT[3:]], replies=(), origin="x:1")


def test_a_text_is_trained_from_its_second_token_on_but_for_images():
    shortest = Example(input_ids=[ord("a"), END], labels=[MASKED, END], replies=(), origin="x:2")
    assert prove(WHOLE, shortest, trains="everything") == 2
    assert "0 replies" in fault(WHOLE), "as a conversation it would be wrong"


@pytest.mark.parametrize(
    ("position", "label", "wanted"),
    [
        (0, ord("a"), "the first token is trained, which nothing comes before; mask it"),
        (1, MASKED, "token 1 is not trained, but every token is to be"),
        (5, MASKED, "token 5 is not trained, but every token is to be"),
        (2, IMAGE, "token 2 must never be trained (an image token, say), but it is"),
    ],
)
def test_a_text_with_one_wrong_label(position, label, wanted):
    wrong = relabelled(WHOLE, lambda labels: labels.__setitem__(position, label))
    assert f"the labels are wrong: {wanted}\n" in fault(wrong, trains="everything")


def test_a_text_that_does_not_end_or_holds_nothing():
    cut = attrs.evolve(WHOLE, input_ids=TEXT[:-1], labels=WHOLE.labels[:-1])
    text = "the last trained token is 'c', not the end-of-turn token '\\x03'; the model would never stop"
    assert text in fault(cut, trains="everything")
    alone = Example(input_ids=[END], labels=[MASKED], replies=(), origin="x:1")
    assert "no token is trained, so the row teaches nothing; drop it" in fault(alone, trains="everything")


# -- what is looked at, and what is said ----------------------------------------------------------


def row(number: int, length: int = 20) -> Example:
    return attrs.evolve(dialogue(("p" * length, "reply")), origin=f"x:{number}")


def test_the_longest_and_the_shortest_row_are_always_looked_at():
    rows = [row(number) for number in range(5000)]
    rows[1234] = row(1234, length=500)
    rows[4321] = row(4321, length=1)
    for number in (1234, 4321):
        broken = list(rows)
        broken[number] = attrs.evolve(rows[number], labels=rows[number].input_ids)
        assert fault(*broken).startswith(f"x:{number}: ")


def test_a_sample_is_looked_at_and_another_seed_looks_elsewhere():
    rows = [row(number) for number in range(1000)]
    seen: dict[int, set[str]] = {}
    for seed in (1, 2, 1):
        origins: set[str] = set()

        def note(examples, origins=origins):
            origins.update(each.origin for each in examples)
            return collate(examples)

        assert prove_labels(data(*rows, collate=note), Characters(), seed) == SAMPLE
        assert seen.setdefault(seed, origins) == origins, "the same seed looks at the same rows"
        assert len(origins) == SAMPLE
    assert seen[1] != seen[2]


def test_the_first_wrong_row_is_named_and_shown():
    broken = attrs.evolve(LONGER, labels=LONGER.input_ids)
    text = fault(GOOD, broken)
    assert text.startswith("x:2: the labels are wrong: ")
    assert "[u] [s] [e] [r]" in text.split("\n")[1]


def test_labels_are_shown_around_the_first_trained_token():
    shown = show_labels(Characters(), GOOD.input_ids, GOOD.labels)
    assert shown == "u s e r : \xa0".replace("\xa0", " ") + " h i \\n [h] [e] [l] [l] [o] [\\x03]"
    long = dialogue(("p" * 100, "r" * 100))
    shown = show_labels(Characters(), long.input_ids, long.labels)
    assert shown == "... " + "p " * 12 + "[r] " * 12 + "..."


def test_trained_spans():
    assert list(trained_spans([MASKED, 1, 2, MASKED, 3])) == [[1, 2], [4]]
    assert list(trained_spans([1])) == [[0]]
    assert list(trained_spans([MASKED])) == []


def test_any_single_wrong_label_is_found():
    generator = random.Random(3)
    rows = [dialogue(("q " * generator.randint(1, 9), "answer")) for _ in range(5)]
    for each in rows:
        for position in range(len(each.labels)):
            turned = each.input_ids[position] if each.labels[position] == MASKED else MASKED
            wrong = relabelled(each, lambda labels, at=position, to=turned: labels.__setitem__(at, to))
            assert "the labels are wrong" in fault(wrong)


def test_prompt_ids_are_what_a_model_answers_from():
    assert bytes(GOOD.prompt_ids) == b"user: hi\n"
    assert bytes(LONGER.prompt_ids).endswith(b"user: sure?\n")
    assert attrs.evolve(GOOD, labels=[MASKED] * 15).prompt_ids == GOOD.input_ids


def test_the_light_plugins_label_right():
    assert prove(example(Row(values={"prompt": "a", "reply": "b"}, origin="x"))) == 1
