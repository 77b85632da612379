"""Turn tokenized rows into a right-padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import MASKED, Example

__all__ = ["PadRight", "pad_id_of"]


@attrs.frozen(kw_only=True)
class PadRight:
    """A collator: examples to int64 tensors `input_ids`, `attention_mask` and `labels` of shape (rows, tokens).

    Each batch is as long as its longest row, rounded up to a multiple of `pad_to_multiple_of` if that is
    set. Padding is on the right, has attention 0 and is never trained, also where `pad_id` is the
    end-of-turn token. An instance holds two numbers only, so that it pickles into loader workers.
    """

    pad_id: int
    pad_to_multiple_of: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """Collate a batch. Raises `ValueError` when there are no examples or a row's labels do not match its tokens."""
        import torch

        length = self._length(examples)
        shape = (len(examples), length)
        ids = torch.full(shape, self.pad_id, dtype=torch.int64)
        attention = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, MASKED, dtype=torch.int64)
        for row, example in enumerate(examples):
            tokens = len(example.input_ids)
            ids[row, :tokens] = torch.tensor(example.input_ids, dtype=torch.int64)
            attention[row, :tokens] = 1
            labels[row, :tokens] = torch.tensor(example.labels, dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": attention, "labels": labels}

    def _length(self, examples: Sequence[Example]) -> int:
        if not examples:
            raise ValueError("cannot collate a batch of no examples")
        for example in examples:
            if len(example.input_ids) != len(example.labels):
                raise ValueError(f"{example.origin}: {len(example.input_ids)} tokens but {len(example.labels)} labels")
        length = max(len(example.input_ids) for example in examples)
        multiple = self.pad_to_multiple_of or 1
        return -(-length // multiple) * multiple


def pad_id_of(tokenizer: Any) -> int:
    """The token to pad with: the tokenizer's own, else its end-of-sequence token, else token 0.

    Which one it is does not matter to training: padding is masked by position, never by its id.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if token is not None), 0)
