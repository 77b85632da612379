from __future__ import annotations

import pickle

import pytest
import torch

from chat_kit import byte_level
from ftcore.api import MASKED, Example
from ftcore_plugins.common.collate import PadRight, pad_id_of


def example(*ids: int, labels: list[int] | None = None) -> Example:
    return Example(input_ids=list(ids), labels=list(ids) if labels is None else labels, replies=("",), origin="x:1")


def test_rows_are_padded_on_the_right_to_the_longest() -> None:
    batch = PadRight(pad_id=9)([example(1, 2, 3, labels=[MASKED, 2, 3]), example(4)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[MASKED, 2, 3], [4, MASKED, MASKED]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_padding_is_masked_and_the_end_of_turn_is_not_where_they_are_one_token() -> None:
    batch = PadRight(pad_id=3)([example(1, 3), example(1, 2, 2, 3)])
    assert batch["labels"].tolist() == [[1, 3, MASKED, MASKED], [1, 2, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(("multiple", "length"), [(None, 5), (1, 5), (4, 8), (5, 5), (8, 8)])
def test_the_length_is_rounded_up(multiple: int | None, length: int) -> None:
    batch = PadRight(pad_id=0, pad_to_multiple_of=multiple)([example(1, 2, 3, 4, 5), example(1)])
    assert batch["input_ids"].shape == (2, length)


def test_it_pickles_into_loader_workers() -> None:
    collate = pickle.loads(pickle.dumps(PadRight(pad_id=7, pad_to_multiple_of=8)))
    assert collate == PadRight(pad_id=7, pad_to_multiple_of=8)
    assert collate([example(1)])["input_ids"].tolist() == [[1] + [7] * 7]


def test_wrong_batches_are_errors() -> None:
    with pytest.raises(ValueError, match="no examples"):
        PadRight(pad_id=0)([])
    with pytest.raises(ValueError, match=r"x:1: 2 tokens but 1 labels"):
        PadRight(pad_id=0)([example(1, 2, labels=[1])])
    with pytest.raises(ValueError, match="pad_to_multiple_of"):
        PadRight(pad_id=0, pad_to_multiple_of=0)


def test_the_padding_token_of_a_tokenizer() -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = "<bos>"
    assert pad_id_of(tokenizer) == tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.pad_token = None
    assert pad_id_of(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert pad_id_of(tokenizer) == 0
