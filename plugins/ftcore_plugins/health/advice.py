"""What to try, in the profile's own keys and with its own figures."""

from __future__ import annotations

from ftcore.api import Profile


def lower_rate(profile: Profile, by: float = 2.0) -> str:
    """A smaller learning rate."""
    rate = profile.train.learning_rate
    return f"set train.learning_rate to {rate / by:.2g} (it is {rate:.2g})"


def higher_rate(profile: Profile, by: float = 5.0) -> str:
    """A larger learning rate."""
    rate = profile.train.learning_rate
    return f"set train.learning_rate to {rate * by:.2g} (it is {rate:.2g})"


def calmer(profile: Profile) -> str:
    """What keeps a run steady: a smaller rate, and clipping, or else a longer warm-up."""
    train = profile.train
    if not train.max_grad_norm:
        return f"{lower_rate(profile)}, and train.max_grad_norm to 1.0, since gradients are not clipped"
    return f"{lower_rate(profile)}, or train.warmup to {_longer(train.warmup)} (it is {train.warmup:g})"


def more_workers(profile: Profile) -> str:
    """More processes that read ahead."""
    workers = profile.hardware.workers
    return f"set hardware.workers to {2 * workers or 2} (it is {workers}), or put the data on a faster disk"


def _longer(warmup: float) -> str:
    return f"{2 * warmup:g}" if 0 < warmup < 0.5 or warmup >= 1 else "0.1"  # noqa: PLR2004
