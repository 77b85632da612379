"""What a runtime is asked, and in which form it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs
import numpy as np

from ftcore_plugins.common.proof.reference import ImageProbe


@attrs.frozen(kw_only=True, eq=False)
class Distribution:
    """Log-probabilities (natural logarithm) of the tokens `ids`, or of the whole vocabulary in its order."""

    log_probabilities: np.ndarray
    ids: np.ndarray | None = None


class Runtime(Protocol):
    """What answers for an artifact. A question that it cannot be asked raises `NotImplementedError`."""

    def tokens(self, text: str) -> Sequence[int]:
        """Token ids of a text without special tokens around it."""

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation, ready for the reply."""

    def distributions(self, ids: Sequence[int], positions: Sequence[int]) -> Sequence[Distribution]:
        """What follows `ids[: position + 1]`, for each of the positions."""

    def greedy(self, prompt: Sequence[int], count: int) -> Sequence[int]:
        """So many most likely tokens after a prompt, fewer where the model ends."""

    def image_distribution(self, probe: ImageProbe, image: Path) -> Distribution:
        """What follows a prompt with an image."""


@runtime_checkable
class Measuring(Protocol):
    """A runtime that has figures of its own beside its answers, such as what its rounding does to them."""

    def measured(self) -> Mapping[str, float]:
        """Figures by name, for the proof; asked last."""
