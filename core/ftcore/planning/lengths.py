"""Which rows a run has room for as it is, where the plan could only assume how long they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import attrs

from ftcore.planning.advice import SHORTEST
from ftcore.planning.plan import Plan, Sketch, make_plan
from ftcore.planning.rows import Said
from ftcore.values import Profile


@attrs.frozen(kw_only=True)
class Lengths:
    """The most `tokens` of a row, or of the `longest` that is assumed the most `trained` ones; None: no room."""

    longest: int
    tokens: int | None = None
    trained: int | None = None

    @property
    def text(self) -> str:
        """In words; empty without room."""
        found = [] if self.tokens is None else [f"rows of {self.tokens} tokens"]
        found += [] if self.trained is None else [f"rows of {self.longest} tokens of which {self.trained} are trained"]
        return f"there is room for {', or for '.join(found)}" if found else ""


def lengths_that_fit(plan: Plan, profile: Profile, known: Sketch, said: Said) -> Lengths:
    """What the user might `say` for the run to fit as it is, where `plan` does not and assumes what is not said."""
    rows = plan.setting.rows

    def most(name: str, least: int, assumed: int) -> int | None:
        def fits(value: int) -> bool:
            return bool(make_plan(profile, known, said=attrs.evolve(said, **{name: value})).fits)

        return None if getattr(said, name) is not None else _most(fits, least, assumed)

    shown = rows.images * known.facts.image_tokens
    return Lengths(
        longest=rows.longest,
        tokens=most("tokens", min(shown + SHORTEST, rows.longest), rows.longest),
        trained=most("trained", 1, rows.trained),
    )


def _most(fits: Callable[[int], bool], least: int, over: int) -> int | None:
    """The largest number that fits, from `least` up to one below `over`; of two that do, all between them do."""
    numbers = range(least, over)
    place = bisect_left(numbers, True, key=lambda number: not fits(number))
    return numbers[place - 1] if place else None
