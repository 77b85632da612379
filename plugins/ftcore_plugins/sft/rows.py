"""What the trainer draws its batches from: the rows as they are, or packed. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import PreparedData, Run, RunError
from ftcore_plugins.sft.batches import PackedBatch, Padded
from ftcore_plugins.sft.packing import Numbers, Packed, best_fit


@attrs.frozen(kw_only=True)
class TrainingRows:
    """`items` are rows or bins of them, `lengths` their tokens; `collate` makes a batch of some."""

    items: Any
    lengths: Sequence[int] | Numbers
    collate: Callable[[Sequence[Any]], Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.items)


def training_rows(run: Run, model: Any, data: PreparedData) -> TrainingRows:
    """The rows, packed if `train.packing` asks for it. Raises `RunError` for rows that cannot be."""
    if not run.profile.train.packing:
        return TrainingRows(items=data.train, lengths=data.lengths, collate=Padded(data.collate))
    if not data.packable:
        raise RunError("train.packing: the format's rows cannot be packed, such as rows with images; set it to false")
    bins = best_fit(data.lengths, run.profile.train.max_length, run.profile.run.seed)
    flat = "flash" in str(model.config.get_text_config()._attn_implementation)
    return TrainingRows(items=Packed(data.train, bins), lengths=bins.lengths, collate=PackedBatch(flat))
