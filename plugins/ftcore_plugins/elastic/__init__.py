"""Starts the processes of a run through torch's elastic agent, and lets processes talk, whoever started them.

https://docs.pytorch.org/docs/stable/distributed.elastic.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftcore.api import Problem, Run, hookimpl
from ftcore_plugins.common.requirements import missing

if TYPE_CHECKING:
    from ftcore_plugins.elastic.meeting import Meeting


class Elastic:
    """`hardware.processes` workers on each of `hardware.machines`, started again when one of them dies."""

    def __init__(self) -> None:
        self._meeting: Meeting | None = None

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """torch must be there, if there is something to launch."""
        several = _several(run) or run.world.size > 1
        return missing("elastic", "train", "torch") if several else []

    @hookimpl
    def launch(self, run: Run, command: Sequence[str]) -> int | None:
        """Start the workers and see them through; nothing for a run of one process.

        Raises `RunError` for machines that do not meet, and what a worker that failed for a known reason raised.
        """
        if not _several(run):
            return None
        from ftcore_plugins.elastic.launcher import Launcher

        return Launcher(run, command).run()

    @hookimpl
    def share(self, run: Run, value: str | None) -> str:
        """Through the store that torch's processes meet at; the first call also makes and proves their group."""
        from ftcore_plugins.elastic.meeting import Meeting

        if self._meeting is None:
            self._meeting = Meeting(run)
        return self._meeting.share(value)


def _several(run: Run) -> bool:
    hardware = run.profile.hardware
    return run.world.size == 1 and hardware.processes * hardware.machines > 1
