"""Which hardware profile fits this machine, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from ftcore.errors import ProfileError
from ftcore.hardware.drivers import Card
from ftcore.hardware.machine import Machine, this_machine
from ftcore.hardware.profiles import Described, described, hardware_profiles, is_shipped
from ftcore.structure import nearest

SHOWN = 40
"""Most characters of a wrong name that an error quotes."""

LOW_MEMORY_GIB = 20
SAME_MEMORY = 0.1
"""Share by which a card's memory may differ from its profile's: drivers keep more or less of it to themselves."""


@attrs.frozen(kw_only=True)
class Recommendation:
    """Hardware profiles for a machine, in the order of `hardware.profile`; `reason` is a sentence."""

    profiles: tuple[str, ...]
    reason: str


def recommended_profile() -> str:
    """What `auto` stands for: the hardware profile of one process here. See `recommended`.

    Raises `ProfileError` for an own hardware profile that cannot be read.
    """
    return recommended(this_machine()).profiles[0]


def recommended(machine: Machine) -> Recommendation:
    """The hardware profile for one process on `machine`, and with several GPUs `multi_gpu` beside it.

    Raises `ProfileError` for an own hardware profile that cannot be read.
    """
    if not machine.cards:
        return _without_card(machine)
    card = min(machine.cards, key=lambda card: card.memory or 0.0)
    fitting = for_card(card, _all_described())
    one = _generic(card) if fitting is None else _exact(card, fitting)
    if len(machine.cards) == 1:
        return one
    text = f"{one.reason}, {len(machine.cards)} of them or better, and multi_gpu starts a process for each"
    return Recommendation(profiles=(*one.profiles, "multi_gpu"), reason=text)


def for_card(card: Card, profiles: Iterable[Described]) -> Described | None:
    """The profile whose card's words all stand in the name of `card` and whose memory is about its own.

    The one with the most words wins ("RTX 4070 Ti" over "RTX 4070"), then a person's own, then the nearest memory.
    """
    fitting = [profile for profile in profiles if _names(profile.card, card.name) and _holds(profile, card)]

    def rank(profile: Described) -> tuple[int, bool, float]:
        apart = abs((profile.memory or 0.0) - (card.memory or 0.0))
        return len(_words(profile.card)), not is_shipped(profile.path), -apart

    return max(fitting, key=rank, default=None)


def _all_described() -> list[Described]:
    return [described(name, path) for name, path in hardware_profiles().items()]


def _exact(card: Card, profile: Described) -> Recommendation:
    return Recommendation(profiles=(profile.name,), reason=f"it is made for the {profile.card}; here is a {card}")


def _generic(card: Card) -> Recommendation:
    low = (card.memory or 0.0) < LOW_MEMORY_GIB
    text = f"there is a {card}, which no hardware profile names, with {'less' if low else 'no less'} than "
    return Recommendation(
        profiles=("single_gpu_low_memory" if low else "single_gpu",), reason=f"{text}{LOW_MEMORY_GIB} GiB"
    )


def _without_card(machine: Machine) -> Recommendation:
    if machine.apple_silicon:
        return Recommendation(
            profiles=("apple_silicon",), reason=f"this is a Mac with an {machine.chip or 'M-series chip'}"
        )
    return Recommendation(profiles=("cpu",), reason="neither nvidia-smi nor rocm-smi finds a GPU")


def _holds(profile: Described, card: Card) -> bool:
    if profile.memory is None or card.memory is None:
        return True
    return abs(card.memory - profile.memory) <= SAME_MEMORY * profile.memory


def _names(wanted: str, name: str) -> bool:
    """Whether the words of `wanted` stand in `name`, one after the other: "L4" is in "NVIDIA L4", not in "L40S"."""
    words, there = _words(wanted), _words(name)
    starts = range(len(there) - len(words) + 1)
    return bool(words) and any(there[start : start + len(words)] == words for start in starts)


def _words(name: str) -> Sequence[str]:
    return re.findall(r"[a-z0-9]+", name.casefold())


def find_hardware_profile(name: str, folder: Path) -> Path | str:
    """The file of a hardware profile, or a sentence that says what is wrong.

    `name` is `auto`, the name of a profile that ships with ftcore or lies in an own folder, or a path that ends
    in `.toml`, relative to `folder`.
    """
    if name.endswith(".toml"):
        path = folder / name
        try:
            return path if path.is_file() else f"no such file: {name} (looked in {folder})"
        except OSError as error:  # a name that the system cannot take
            return f"{error.strerror}: {name[:SHOWN]}"
    try:
        chosen = recommended_profile() if name == "auto" else name
    except ProfileError as error:
        return str(error)
    profiles = hardware_profiles()
    if chosen in profiles:
        return profiles[chosen]
    return f"no hardware profile {name[:SHOWN]!r} (ftcore hardware lists them){nearest(name, profiles)}"
