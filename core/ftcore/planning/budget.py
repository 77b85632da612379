"""The device that a plan must fit into: the one that a profile names, or this machine's."""

from __future__ import annotations

import attrs

from ftcore.hardware import cards
from ftcore.hardware.machine import usable_memory
from ftcore.hardware.usage import GIB
from ftcore.planning.setting import Device, device_of
from ftcore.values import Profile

NAMES = {"cuda": "a graphics card", "mps": "the GPU of a Mac", "cpu": "the processor"}


@attrs.frozen(kw_only=True)
class Budget:
    """One device. `memory` is in bytes and None where nobody says; `named` tells whether the profile says it.

    `tflops` are dense tera-operations a second in 16 bits.
    """

    device: Device
    name: str
    memory: float | None
    tflops: float | None
    named: bool


def budget_of(profile: Profile) -> Budget:
    """What `[hardware]` says of the device, and this machine where it says nothing."""
    hardware, device = profile.hardware, device_of(profile)
    memory = hardware.memory * GIB if hardware.memory else _memory_here(device)
    return Budget(
        device=device,
        name=hardware.card or (_card_here() if device == "cuda" and not hardware.memory else "") or NAMES[device],
        memory=memory,
        tflops=hardware.tflops,
        named=hardware.memory is not None,
    )


def _memory_here(device: Device) -> float | None:
    if device != "cuda":
        return float(usable_memory())
    known = [card.memory for card in cards() if card.memory]
    return min(known) * GIB if known else None


def _card_here() -> str:
    return next((card.name for card in cards()), "")
