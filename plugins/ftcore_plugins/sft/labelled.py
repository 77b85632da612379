"""The loss of a causal language model from logits at labelled positions only. Imports torch.

Most of a row is prompt and padding, whose logits nobody reads. The output layer is the largest product
of a small model with a large vocabulary, so it is given only those hidden states whose next token is
trained. Every position's logits depend on its own hidden state alone, so the loss is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ftcore.api import MASKED, RowLoss


class LabelledLoss:
    """Sum of the cross-entropy over the trained tokens of a batch, in nats.

    The output layer is told by a hook which positions count, so that adapters, `modules_to_save`,
    autocast, soft-capping and distributed wrappers stay as the model has them. A model that does not call
    its output layer on hidden states of shape (rows, tokens, width) gets the ordinary, full logits.
    """

    def __init__(self, model: Any, *, enabled: bool, device: torch.device | None = None) -> None:
        self.device = device
        self._head = model.get_output_embeddings() if enabled else None

    def __call__(self, model: Any, inputs: Mapping[str, Any], *, reduction: str = "sum") -> torch.Tensor:
        """`inputs` are a batch with `labels` of shape (rows, tokens); the answer is a scalar.

        With the reduction "none" it has the loss of each trained token, row by row.
        """
        targets = inputs["labels"][:, 1:]
        counted = targets != MASKED
        others = {name: value for name, value in inputs.items() if name != "labels"}
        with self._only(counted) as selected:
            logits = model(**others, use_cache=False).logits
        logits = logits[0] if selected else logits[:, :-1][counted]
        return cross_entropy(logits.float(), targets[counted], reduction=reduction)

    def of_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[RowLoss]:
        """The loss of each row of a batch, summed in float64: the same whichever rows it lies beside, but rounding."""
        counts = (inputs["labels"][:, 1:] != MASKED).sum(dim=1).tolist()
        each = self(model, inputs, reduction="none").cpu().double()
        return [
            RowLoss(nats=float(part.sum()), tokens=count)
            for part, count in zip(each.split(counts), counts, strict=True)
        ]

    @contextmanager
    def _only(self, counted: torch.Tensor) -> Iterator[list[bool]]:
        """Yields a list that is empty until the output layer was given the counted positions alone."""
        selected: list[bool] = []
        if self._head is None:
            yield selected
            return

        def select(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            hidden = arguments[0]
            if hidden.shape[:2] != (counted.shape[0], counted.shape[1] + 1):
                return None
            selected.append(True)
            return (hidden[:, :-1][counted].unsqueeze(0), *arguments[1:])

        handle = self._head.register_forward_pre_hook(select)
        try:
            yield selected
        finally:
            handle.remove()
