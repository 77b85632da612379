"""From examples to the tensors of one batch, padded or packed. Imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import torch

from ftcore.api import MASKED, Collate, Example, RunError
from ftcore_plugins.sft.ranks import Ranks

ITEMS = "items"
"""Key of a batch with what it is made from, rows or bins of rows; taken out before the model sees the batch."""

FAILED = "failed"
"""Key of a batch that could not be made, and why."""

GROUPED = 32
"""Batches of rows that are read at once to be sorted by length."""


@attrs.frozen
class Padded:
    """The formatter's own batch. An object, since loader workers pickle it."""

    collate: Collate

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The batch, with its rows beside its tensors; or why there is none, which `checked` raises."""
        leave_the_group()
        try:
            return {**self.collate(examples), ITEMS: examples}
        except RunError as error:  # torch would put the traceback of its worker process into the sentence
            return {FAILED: str(error)}


def leave_the_group() -> None:
    """In a loader's process: a signal to the whole group is the trainer's to obey, which still needs its batches."""
    if torch.utils.data.get_worker_info() is not None and os.getpgrp() != os.getpid():
        os.setpgrp()


def origins_of(items: Iterable[Example | Sequence[Example]]) -> list[str]:
    """Where the rows of a batch come from."""
    bins = ([item] if isinstance(item, Example) else item for item in items)
    return [example.origin for examples in bins for example in examples]


def without_items(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as the model takes it."""
    return {name: value for name, value in batch.items() if name != ITEMS}


def checked(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch that a loader gave. Raises `RunError` when a row could not be read, such as for a lost image."""
    if FAILED in batch:
        raise RunError(batch[FAILED])
    return batch


@attrs.frozen
class ByLength:
    """Batches of `rows` examples, as their places; those of a few batches share them out by length, for less padding.

    `length` says how many tokens of an example the model sees.
    """

    examples: Sequence[Example]
    rows: int
    length: Callable[[Example], int]

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.examples), GROUPED * self.rows):
            stop = min(start + GROUPED * self.rows, len(self.examples))
            # The longest first: if memory runs out, it does so at once.
            group = sorted(range(start, stop), key=lambda place: -self.length(self.examples[place]))
            for first in range(0, len(group), self.rows):
                yield group[first : first + self.rows]

    def of(self, ranks: Ranks) -> Iterator[tuple[list[int], bool]]:
        """The batches of this rank, as many as on any other; False marks one that counts on another rank.

        A sharded model takes all ranks to run, so none may stop before the others.
        """
        batches = iter(self)
        while turn := list(islice(batches, ranks.size)):
            own = ranks.rank < len(turn)
            yield turn[ranks.rank if own else 0], own


@attrs.frozen
class PackedBatch:
    """Bins of rows as `input_ids`, `labels` and `position_ids`, int64 of shape (bins, tokens).

    Positions start again at 0 with each row, and there is no attention mask: by both, transformers knows
    packed rows and lets none see another (`masking_utils.find_packed_sequence_indices`). The first token
    of a row has nothing to be predicted from and is not trained. Padding is a row of its own. If `flat`, all
    bins lie end to end, in the shape (1, tokens) and without padding, as FlashAttention wants them.
    """

    flat: bool

    def __call__(self, bins: Sequence[Sequence[Example]]) -> dict[str, Any]:
        """The batch, with its bins beside its tensors."""
        leave_the_group()
        lines = [[example for examples in bins for example in examples]] if self.flat else bins
        width = max(sum(len(example.input_ids) for example in line) for line in lines)
        batch = {
            "input_ids": torch.zeros(len(lines), width, dtype=torch.int64),
            "labels": torch.full((len(lines), width), MASKED, dtype=torch.int64),
            "position_ids": torch.zeros(len(lines), width, dtype=torch.int64),
        }
        for number, line in enumerate(lines):
            _lay(line, {name: tensor[number] for name, tensor in batch.items()})
        return {**batch, ITEMS: bins}


def _lay(examples: Iterable[Example], line: dict[str, torch.Tensor]) -> None:
    """Write the rows into one line of the batch."""
    start, width = 0, len(line["input_ids"])
    for example in examples:
        stop = start + len(example.input_ids)
        line["input_ids"][start:stop] = torch.tensor(example.input_ids)
        line["labels"][start + 1 : stop] = torch.tensor(example.labels)[1:]
        line["position_ids"][start:stop] = torch.arange(stop - start)
        start = stop
    line["position_ids"][start:] = torch.arange(width - start)
