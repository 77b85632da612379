"""Tells each sign once, and again only after it was gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftcore.api import Notice, Step
from ftcore_plugins.health.signs import Finding, Lookout, Sign


class Watch:
    """Asks every lookout. A sign is gone once it was not seen for `patience` steps, or at an evaluation."""

    def __init__(self, lookouts: Sequence[Lookout], patience: int) -> None:
        self._lookouts, self._patience = lookouts, patience
        self._last: dict[Sign, int] = {}  # step that a sign was seen at, while it is not gone
        self._lasting: dict[Sign, bool] = {}  # seen at the last evaluation

    def step(self, step: Step) -> list[Notice]:
        """What is new as of this step."""
        found = []
        for lookout in self._lookouts:
            finding = lookout.step(step)
            if finding is not None:
                found += self._seen(lookout.sign, finding, step.number)
            elif self._last and not self._lasting.get(lookout.sign):
                self._gone(lookout.sign, step.number)
        return found

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> list[Notice]:
        """What is new as of this evaluation."""
        found = []
        for lookout in self._lookouts:
            finding = lookout.evaluation(step, metrics)
            self._lasting[lookout.sign] = finding is not None
            if finding is not None:
                found += self._seen(lookout.sign, finding, step)
        return found

    def with_more(self, lookouts: Sequence[Lookout]) -> Watch:
        """The same, which asks others as well."""
        self._lookouts = [*self._lookouts, *lookouts]
        return self

    def _seen(self, sign: Sign, finding: Finding, step: int) -> list[Notice]:
        new = sign not in self._last
        self._last[sign] = step
        return [finding.notice(sign)] if new else []

    def _gone(self, sign: Sign, step: int) -> None:
        if sign in self._last and step - self._last[sign] >= self._patience:
            del self._last[sign]
