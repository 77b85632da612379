"""What a sign is, and what looks out for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Protocol

import attrs

from ftcore.api import Notice, Step

PAGE = "docs/health.md"


class Sign(StrEnum):
    """Every sign, by its stable name; docs/health.md has a section of the name."""

    GRADIENT_EXPLODING = "gradient-exploding"
    GRADIENT_VANISHING = "gradient-vanishing"
    GRADIENT_OVERFLOW = "gradient-overflow"
    LOSS_RISING = "loss-rising"
    LOSS_STUCK = "loss-stuck"
    LOSS_ZERO = "loss-zero"
    LOSS_SPIKES = "loss-spikes"
    OVERFITTING = "overfitting"
    PERPLEXITY = "perplexity"
    LEARNING_RATE_ZERO = "learning-rate-zero"
    DATA_LAGGING = "data-lagging"
    GPU_IDLE = "gpu-idle"
    MEMORY_CREEPING = "memory-creeping"
    THROUGHPUT_DROPPED = "throughput-dropped"
    DISK_FULL = "disk-full"


@attrs.frozen
class Finding:
    """What was seen, in a sentence, and what to try."""

    text: str
    advice: str

    def notice(self, sign: Sign) -> Notice:
        """As the engine takes it."""
        return Notice(sign=sign.value, text=self.text, advice=self.advice, page=f"{PAGE}#{sign}")


class Lookout(Protocol):
    """Looks out for one sign. What it knows follows from the steps and evaluations that it was given alone."""

    sign: Sign

    def step(self, step: Step) -> Finding | None:
        """What is wrong as of this step; None as long as nothing is."""

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """What is wrong as of this evaluation, which lasts until the next one."""


class Quiet:
    """The half of a `Lookout` that sees nothing."""

    def step(self, step: Step) -> Finding | None:  # noqa: ARG002
        """See `Lookout`."""
        return None

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> Finding | None:  # noqa: ARG002
        """See `Lookout`."""
        return None


def gpus(step: Step, figure: str) -> Iterator[float]:
    """What was sampled of each graphics card, such as its `temperature`; mostly nothing, since samples are rare."""
    end = f"/{figure}"
    return (value for name, value in step.metrics.items() if name.startswith("system/gpu") and name.endswith(end))
