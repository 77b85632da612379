"""Do the work of a run in this process, and tell everyone how it ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftcore.display import Display
from ftcore.early_end import told_as, way_on_after
from ftcore.errors import FtcoreError, Interrupted
from ftcore.locks import locked
from ftcore.manifest import Manifest
from ftcore.plugins import Plugins
from ftcore.processes.attach import rank_log
from ftcore.processes.failures import lost_another
from ftcore.processes.last_words import leave, leave_to_main, true_reason
from ftcore.runlog import RunLog, logged_to
from ftcore.signals import StopSignals
from ftcore.values import Outcome, Run

if TYPE_CHECKING:
    from ftcore.session import Session

Begun = Callable[[Path], None]


def nobody(folder: Path) -> None:
    """Told where a run has begun when nobody else wants to know."""


def execute(plugins: Plugins, run: Run, manifest: Manifest, display: Display, begun: Begun = nobody) -> Outcome:
    """Do the work of a run whose folder is there; only its main process tells `begun`."""
    from ftcore.session import Session  # `check` ends before the work, and is lighter without it

    with ExitStack() as stack:
        shown = stack.enter_context(_logged(run, display))
        signals = stack.enter_context(StopSignals())
        if run.world.is_main:
            begun(run.folder)
        session = Session(plugins, run, manifest, shown, signals)
        try:
            outcome = session.work()
        except BaseException as error:
            signals.deferred = True
            told = _end_early(session, run, error, true_reason(run, error, signals.requested))
            if run.world.started_by != "ftcore":  # else the launcher says both, or starts again
                if way_on := way_on_after(told, run.folder):
                    display.say(way_on)
                leave_to_main(told, run)
            raise told from told.__cause__
        signals.deferred = True
        session.ended(outcome)
    return outcome


def _end_early(session: Session, run: Run, raised: BaseException, error: BaseException) -> FtcoreError | Interrupted:
    """Tell everyone but the caller that `error` has ended the run, and answer what the caller is told.

    It is what this process `raised`, or another one: then that one has left its word.
    """
    failed = session.failed(error)
    told = told_as(error, run, failed.reason)
    if error is raised and not lost_another(error):
        leave(run, told, failed.reason)
    # The user reads one sentence; run.log keeps where it came from.
    trace = None if isinstance(error, Interrupted) else raised
    logging.getLogger("ftcore").error("the run has ended early: %s", failed.reason, exc_info=trace)
    with contextlib.suppress(OSError):  # on a full disk the first error is the one to tell
        session.ended(failed)
    return told


@contextmanager
def _logged(run: Run, display: Display) -> Iterator[Display]:
    """The main process holds the run, and writes down what it shows; another one has a file of its own."""
    if not run.world.is_main:
        with logged_to(rank_log(run.folder, run.world.rank)):
            yield display
        return
    with locked(run.folder), RunLog(run.folder, display) as shown:
        yield shown
