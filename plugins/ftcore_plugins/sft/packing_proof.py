"""A proof, on the model that is trained, that packed rows do not see each other. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from ftcore.api import MASKED, Example, RunError
from ftcore_plugins.sft.batches import PackedBatch, without_items
from ftcore_plugins.sft.labelled import LabelledLoss
from ftcore_plugins.sft.packing import Packed

TOKENS = 32
"""Of each row: what a row could see of the one before it shows in its first tokens."""

EXACT = 1e-4
"""Nats by which the losses of the same row may differ in float32."""

FACTOR = 5
"""Lower precisions differ by more, but packed rows not much more than padded ones do."""


def prove_packing(model: Any, loss: LabelledLoss, packed: Packed, collate: PackedBatch) -> None:
    """Raise `RunError` if a token's loss is another one in a packed row than in the row alone.

    The model must be in evaluation mode. Looks at the beginnings of two rows; without two in one bin there is
    nothing to prove.
    """
    rows = _beginnings(packed)
    if not rows:
        return
    first, second = rows
    alone = torch.cat([_losses(model, loss, _padded([row])) for row in (first, second, second)])
    noise = _losses(model, loss, _padded([first, second, second])) - alone
    # A bin of both beside a bin of one, with padding: the second row once after another and once not.
    difference = _losses(model, loss, collate([[first, second], [second]])) - alone
    largest = difference.abs().max().item()
    if largest > max(EXACT, FACTOR * noise.abs().max().item()):
        raise RunError(
            f"train.packing: this model lets packed rows see each other (a token's loss differs by {largest:.2g} "
            "nats from that of its row alone); set it to false"
        )


def _beginnings(packed: Packed) -> Sequence[Example]:
    """Of two rows that lie in one bin, with every token trained; empty if no bin has two."""
    bins = packed.bins
    several = (bins.starts[1:] - bins.starts[:-1] > 1).nonzero()[0]
    rows = packed[int(several[0])][:2] if len(several) else []
    beginnings = [list(row.input_ids[:TOKENS]) for row in rows]
    return [attrs.evolve(row, input_ids=ids, labels=ids) for row, ids in zip(rows, beginnings, strict=True)]


def _padded(rows: Sequence[Example]) -> dict[str, torch.Tensor]:
    """A batch of unpacked rows; several of them have padding, which takes another way through attention."""
    width = max(len(row.input_ids) for row in rows) + (len(rows) > 1)
    padding = [width - len(row.input_ids) for row in rows]
    pairs = list(zip(rows, padding, strict=True))
    return {
        "input_ids": torch.tensor([[*row.input_ids, *[0] * pad] for row, pad in pairs]),
        "attention_mask": torch.tensor([[1] * (width - pad) + [0] * pad for pad in padding]),
        "labels": torch.tensor([[*row.labels, *[MASKED] * pad] for row, pad in pairs]),
    }


def _losses(model: Any, loss: LabelledLoss, batch: Mapping[str, Any]) -> torch.Tensor:
    inputs = {name: value.to(loss.device or model.device) for name, value in without_items(batch).items()}
    try:
        return loss(model, inputs, reduction="none")
    except TypeError as error:
        raise RunError(f"train.packing: this model takes no packed rows ({error}); set it to false") from error
