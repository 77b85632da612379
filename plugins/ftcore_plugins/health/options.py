"""What the health plugin may be told."""

from __future__ import annotations

import attrs

from ftcore.api import option


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.health]`."""

    off: tuple[str, ...] = option((), help='signs that are not told, such as ["overfitting"]; docs/health.md has them')
    window: int = option(50, at_least=10, help="steps that are looked at together")
    gradient_factor: float = option(10.0, above=1, help="a gradient norm this many times its median is exploding")
    gradient_norm: float | None = option(None, above=0, help="a gradient norm above this is exploding as well")
    loss_rise: float = option(0.2, above=0, help="share by which the loss must be over its lowest to be rising")
    loss_zero: float = option(0.01, at_least=0, help="training loss below which rows are memorised, or labels leak")
    overfitting: float = option(
        0.05, above=0, help="share by which the held-out loss must be over its lowest to be overfitting"
    )
    perplexity: float = option(1000.0, above=1, help="perplexity above which a model knows nothing about the rows")
    data_share: float = option(0.2, above=0, at_most=1, help="share of the time that a step may wait for its batches")
    gpu_use: float = option(30.0, at_least=0, at_most=100, help="percent of the time that a GPU should be at work")
    memory_growth: float = option(
        0.1, above=0, help="share by which the process's memory must keep growing to be creeping up"
    )
    slowdown: float = option(0.5, above=0, below=1, help="share of its usual speed below which a run has slowed down")
    disk_free: float = option(1.0, at_least=0, help="GiB that the run's disk should have free besides a checkpoint")
