"""How near one model's next-token distributions are to another's, on real rows. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ftcore.api import MASKED, Example, PreparedData
from ftcore_plugins.common.evaluation import evaluating

ROWS = 8


def rows_to_compare(data: PreparedData) -> Sequence[Example]:
    """A few held-out rows, or rows of the training set if none are held out."""
    return (data.validation or data.train)[:ROWS]


def compare(reference: Any, candidate: Any, data: PreparedData) -> Mapping[str, float]:
    """Teacher-forced Kullback-Leibler divergence of candidate from reference, in nats, at trained positions.

    `kl_mean` and `kl_max` are over the positions, `top1_agreement` is the share of positions whose most
    likely token is the same. Each row is read alone, so padding plays no part. Both models are left in
    the mode that they were in.
    """
    divergences, agreements = [], []
    with evaluating(reference), evaluating(candidate), torch.no_grad():
        for example in rows_to_compare(data):
            batch = data.collate([example])
            first, second = _log_probabilities(reference, batch), _log_probabilities(candidate, batch)
            divergences.append((first.exp() * (first - second)).sum(-1))
            agreements.append((first.argmax(-1) == second.argmax(-1)).double())
    divergence, agreement = torch.cat(divergences), torch.cat(agreements)
    return {
        "kl_mean": divergence.mean().item(),
        "kl_max": divergence.max().item(),
        "top1_agreement": agreement.mean().item(),
        "positions": float(divergence.numel()),
    }


def _log_probabilities(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    trained = batch["labels"][:, 1:] != MASKED
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inputs = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    # In float64, rounding stays far below the smallest gate.
    return logits[trained.to(logits.device)].cpu().double().log_softmax(-1)
