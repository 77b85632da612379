"""What a profile asks of this machine that it cannot do, or leaves unused; found without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ftcore.errors import Problem
from ftcore.hardware.drivers import BF16_CAPABILITY, Card, cards
from ftcore.profile import LayeredProfile
from ftcore.values import Profile


def hardware_problems(source: LayeredProfile, profile: Profile) -> Iterator[Problem]:
    """Errors for bfloat16 on a card without it, and warnings for a GPU that is not here and GPUs that nobody uses.

    `source` tells which options somebody wrote.
    """
    if profile.hardware.device not in ("auto", "cuda"):
        return
    found = cards()
    if not found and profile.hardware.device == "cuda":
        text = "no driver finds a GPU here, and the run needs one where it starts; or set it to auto"
        yield source.problem(("hardware", "device"), text, "warning")
    yield from _bf16(source, profile, found)
    alone = "WORLD_SIZE" not in os.environ and source.layer_of(("hardware", "processes")) is None
    if len(found) > 1 and alone:
        text = f"one of the {len(found)} GPUs here will train; set 0 for all of them, or 1 to say that it is meant"
        yield source.problem(("hardware", "processes"), text, "warning")


def _bf16(source: LayeredProfile, profile: Profile, found: list[Card]) -> Iterator[Problem]:
    old = next((card for card in found if card.bf16 is False), None)
    if old is None:
        return
    lacks = f"bfloat16 needs compute capability {BF16_CAPABILITY}, and the {old.name} here has {old.capability}"
    if profile.train.precision == "bf16":
        yield source.problem(("train", "precision"), f'{lacks}; set it to "fp16", or leave it out')
    if profile.model.dtype == "bfloat16":
        yield source.problem(("model", "dtype"), f'{lacks}; set it to "float16", or leave it out')
