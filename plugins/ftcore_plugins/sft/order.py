"""The order in which rows are trained on. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class StepOrder(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """A new random order each epoch; the rows of one optimizer step come longest first.

    A step's loss is the mean over all its tokens, so the order within it changes nothing but how much
    padding its micro-batches hold; and what does not fit in memory shows at once. Each epoch's order
    follows from seed and epoch alone, whatever the micro-batch is and wherever a run goes on.
    """

    def __init__(self, lengths: Sequence[int], rows_per_step: int, seed: int) -> None:
        self._lengths = lengths
        self._rows = rows_per_step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order), self._rows):
            yield from sorted(order[start : start + self._rows], key=lambda row: -self._lengths[row])
