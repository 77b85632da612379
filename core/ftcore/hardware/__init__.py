"""The machine: what it has, which hardware profile fits it, and whether its libraries work. Imports no torch."""

from __future__ import annotations

from ftcore.hardware.choice import Recommendation, find_hardware_profile, recommended, recommended_profile
from ftcore.hardware.drivers import Card, cards, nvidia_memory_gib
from ftcore.hardware.machine import Machine, this_machine
from ftcore.hardware.profiles import hardware_profiles, own_folders, shipped

__all__ = [
    "Card",
    "Machine",
    "Recommendation",
    "cards",
    "find_hardware_profile",
    "hardware_profiles",
    "nvidia_memory_gib",
    "own_folders",
    "recommended",
    "recommended_profile",
    "shipped",
    "this_machine",
]
