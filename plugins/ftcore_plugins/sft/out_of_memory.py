"""Out of memory within a step: the step is taken again in smaller parts, with the same rows. Imports torch."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ftcore.api import OutOfMemoryError
from ftcore_plugins.sft.batches import without_items

Items = Sequence[Any]
Batch = Mapping[str, Any]

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocators say, on a GPU and on a CPU."""

FEWER = "lower train.micro_batch_size; ftcore tune finds the largest that fits"
TOGETHER = "resumed, the run goes on in micro-batches of"
SMALLER = "use a smaller train.max_length, train.activation_checkpointing or [plugin.qlora]; ftcore plan ranks them"

SMALLER_BATCH = f"lower train.eval_batch_size; where it is 1, {SMALLER}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or in the process."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def memory_told(fix: str = SMALLER) -> Iterator[None]:
    """What fails in the block because memory ran out raises `OutOfMemoryError`, with what to do about it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory; {fix}") from error


class SmallerParts:
    """Takes the micro-batches of a step, and all of them again in halves once one does not fit.

    Gradients are sums over trained tokens, so that parts add up to what the whole would have given. A failed
    backward pass leaves some gradients behind and random numbers drawn: a step begins again from where it began.
    `count` is how many parts a micro-batch is taken in; it stays for the steps that follow.

    Several ranks take their micro-batches together, and some of them may be in the midst of a collective that one has
    left. There, the first failure ends the attempt: `fewer` are the rows that all can go on with, 0 for none. It is
    None for a rank that is alone.
    """

    def __init__(self, collate: Callable[[Items], Batch], clear: Callable[[], None], *, fewer: int | None) -> None:
        self.count = 1
        self._collate, self._clear, self._fewer = collate, clear, fewer
        self._step: list[Items] = []
        self._taken = 0
        self._random: list[torch.Tensor] = []

    def begin(self, step: list[Items]) -> None:
        """A new step, of micro-batches that are made from these items."""
        self._step, self._taken = step, 0
        self._random = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]

    def take(self, batch: Batch, action: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """Forward and backward of the step's next micro-batch; returns its loss.

        Raises `OutOfMemoryError` when not even one item fits, or none may be taken alone.
        """
        self._taken += 1
        items = self._step[self._taken - 1]
        loss = _fitting(lambda: action(batch) if self.count == 1 else self._in_parts(items, action))
        while loss is None:
            self._require_alone()
            self._halve()
            loss = _fitting(lambda: [self._in_parts(items, action) for items in self._step[: self._taken]][-1])
        return loss

    def whole(self, action: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The same where a step is more than forward and backward, and cannot begin again."""
        loss = _fitting(action)
        if loss is None:
            self._require_alone()
            raise OutOfMemoryError(f"out of memory with a micro-batch of {self._largest} rows; {FEWER}")
        return loss

    @property
    def _largest(self) -> int:
        return max(len(items) for items in self._step)

    def _require_alone(self) -> None:
        if self._fewer is None:
            return
        if not self._fewer:
            raise OutOfMemoryError(f"out of memory with a micro-batch of one row; {SMALLER}")
        text = f"out of memory with a micro-batch of {self._largest} rows; {TOGETHER} {self._fewer}"
        raise OutOfMemoryError(text, smaller=self._fewer)

    def _in_parts(self, items: Items, action: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        batches = (without_items(self._collate(part)) for part in _parts(items, self.count))
        return torch.stack([action(batch) for batch in batches]).sum()

    def _halve(self) -> None:
        """Back to the state at the start of the step."""
        largest = self._largest
        if self.count >= largest:
            raise OutOfMemoryError(f"out of memory with a micro-batch of one row; {SMALLER}")
        self.count = min(2 * self.count, largest)
        self._clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state_all(self._random[1:])
        torch.set_rng_state(self._random[0])
        rows = -(-largest // self.count)
        logging.getLogger("ftcore.plugins.sft").warning(
            "out of memory: this step and those that follow are taken in micro-batches of %d, the batch stays as it"
            " is; set train.micro_batch_size = %d",
            rows,
            rows,
        )


def fewer_rows(micro: int, per_step: int) -> int:
    """The largest micro-batch of at most half as many rows that those of a step come out whole with; 0 for none."""
    return next((rows for rows in range(micro // 2, 0, -1) if per_step % rows == 0), 0)


def _fitting(action: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """The answer, or None when memory ran out; by then the failed attempt's tensors are free."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _parts(items: Items, count: int) -> Iterator[Items]:
    size = -(-len(items) // count)
    for start in range(0, len(items), size):
        yield items[start : start + size]
