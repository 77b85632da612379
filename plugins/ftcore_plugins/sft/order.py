"""The order in which rows are trained on. Imports torch and numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

BLUR = 0.15
"""Share by which a row may seem longer than it is: padding grows by a twentieth, and like lengths mix."""


class StepOrder(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """A new random order each epoch; steps near each other share out their rows by length, for less padding.

    The rows of `grouped` steps are drawn at random, sorted by length, cut into steps, and the steps shuffled;
    with 1, each step's rows are random. Lengths are blurred first: a difference of a token or two may well be the
    answer itself, and a step must not see one answer alone.

    Within a step the longest rows come first: a step's loss is the mean over all its tokens, so that changes
    nothing but the padding of its micro-batches. A step's rows follow from the seed and the epoch alone, whatever
    the micro-batch is and wherever a run goes on.
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.int32], rows_per_step: int, seed: int, *, grouped: int = 1
    ) -> None:
        self._lengths: NDArray[np.int32] = np.asarray(lengths, dtype=np.int32)
        self._rows = rows_per_step
        self._seed = seed
        self._grouped = grouped
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self), generator=generator).numpy()
        whole = len(order) - len(order) % self._rows  # a short step stays at the end, for it is no whole batch
        for start in range(0, whole, self._rows * self._grouped):
            group = order[start : min(start + self._rows * self._grouped, whole)]
            blurred = self._lengths[group] * (1 + BLUR * torch.rand(len(group), generator=generator).numpy())
            steps = group[np.argsort(blurred, kind="stable")].reshape(-1, self._rows)
            for step in torch.randperm(len(steps), generator=generator).tolist():
                yield from self._longest_first(steps[step]).tolist()
        yield from self._longest_first(order[whole:]).tolist()

    def _longest_first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[np.argsort(-self._lengths[rows], kind="stable")]
