"""Several processes (ranks) that take one step together: who takes which rows, and how they agree. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import attrs
import torch
from accelerate.utils import DistributedType

from ftcore.api import MASKED, Decision, Example, RunError, World
from ftcore_plugins.sft.order import StepOrder


@attrs.frozen(kw_only=True)
class Ranks:
    """This rank among all, and what they tell each other. With one rank, nothing is sent."""

    rank: int
    size: int
    device: torch.device

    def sums(self, *values: float) -> list[float]:
        """Of each value, the sum over all ranks."""
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def agreed(self, decision: Decision) -> Decision:
        """What any rank asks for."""
        asked = (decision.evaluate, decision.checkpoint, decision.stop)
        evaluate, commit, stop = self._reduced(asked, torch.distributed.ReduceOp.MAX)
        return Decision(evaluate=bool(evaluate), checkpoint=bool(commit), stop=bool(stop))

    def gathered(self, value: Any) -> list[Any]:
        """The value of each rank, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def meet(self) -> None:
        """Wait for all ranks. One that has died is noticed by its group's time-out."""
        if self.size > 1:
            torch.distributed.barrier()

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, op=how)
        numbers: list[float] = tensor.tolist()
        return numbers


class RankOrder(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """One rank's share of each step's rows: together, the ranks take the step that one process would.

    All get equally many. What is lacking in the short step at an epoch's end is filled up with the step's last row,
    at a number that is larger by that of all rows: `Filled` gives it out without a label, which trains nothing.
    The ranks' micro-batches of a turn are neighbours in length, so that none waits long for another.
    """

    def __init__(self, order: StepOrder, rows_per_step: int, micro: int, ranks: Ranks) -> None:
        self._order = order
        self._rows = rows_per_step
        self._micro = micro
        self._ranks = ranks

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        whole, rest = divmod(len(self._order), self._rows)
        return whole * self._share(self._rows) + self._share(rest)

    def __iter__(self) -> Iterator[int]:
        rows = iter(self._order)
        while step := list(islice(rows, self._rows)):
            yield from self._mine(step)

    def _share(self, rows: int) -> int:
        return -(-rows // self._ranks.size)

    def _mine(self, step: list[int]) -> Iterator[int]:
        rank, size = self._ranks.rank, self._ranks.size
        share = self._share(len(step))
        filled = step + [len(self._order) + step[-1]] * (share * size - len(step))
        for start in range(0, share, self._micro):
            micro = min(self._micro, share - start)
            turn = filled[start * size : (start + micro) * size]
            yield from turn[rank * micro : (rank + 1) * micro]


@attrs.frozen
class Filled:
    """Training rows, and behind them the same rows without labels."""

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        rows = len(self.items)
        return self.items[number] if number < rows else unlabelled(self.items[number - rows])


def unlabelled(item: Any) -> Any:
    """A row, or a bin of rows, none of whose tokens is trained."""
    if isinstance(item, Example):
        return attrs.evolve(item, labels=[MASKED] * len(item.input_ids))
    return [unlabelled(example) for example in item]


def require_world(world: World, accelerator: Any, args: Any) -> None:
    """Raise `RunError` unless accelerate made the processes and the strategy that were asked for.

    It makes others in silence where the environment or the machine does not suit it: two processes would then
    train two models, each on all rows.
    """
    found, number, rank = accelerator.distributed_type, accelerator.num_processes, accelerator.process_index
    if (number, rank) != (world.size, world.rank):
        here = f"process {rank} of {number}"
        raise RunError(f"this is process {world.rank} of {world.size}, but accelerate takes it for {here}")
    wanted = _strategies(world, args)
    if found not in wanted:
        names = " or ".join(sorted(kind.value for kind in wanted))
        raise RunError(f"the run needs {names}, but accelerate set up {found.value}; look at hardware.device")


def _strategies(world: World, args: Any) -> set[DistributedType]:
    if args.deepspeed:
        return {DistributedType.DEEPSPEED}
    if args.fsdp:
        return {DistributedType.FSDP}
    if world.size == 1:
        return {DistributedType.NO}
    return {DistributedType.MULTI_CPU if args.use_cpu else DistributedType.MULTI_GPU}
