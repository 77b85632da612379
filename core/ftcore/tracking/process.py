"""What a tracker's process is from its first moment: alone, modest, deaf to Ctrl-C, and silent in the terminal."""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ftcore.assembly import build_plugins
from ftcore.errors import ExitCode, RunError
from ftcore.manifest import read_manifest
from ftcore.preflight import LoadedProfile, load_profile
from ftcore.runlog import plugins_heard
from ftcore.runs import PROFILE
from ftcore.tracking.cursor import lock_file
from ftcore.tracking.parent import Parent
from ftcore.tracking.sending import GaveUpError, Sender
from ftcore.values import Run, Tracker

NICENESS = 15
LOCK_SECONDS = 120.0
LEAVE_SECONDS = 3.0
"""What a library does at the end of its process, such as joining threads, may take so long."""


def work(folder: Path, name: str, parent: int, *, sets: Sequence[str] = (), switch_on: Sequence[str] = ()) -> ExitCode:
    """Do the work of the tracker `name` beside the run in `folder`, which the process `parent` has begun."""
    _settle()
    with _alone(folder, name):
        sender = Sender(folder, name)
        link = Parent(folder, parent, sender.tick)
        link.watch()
        with plugins_heard(sender.say):
            try:
                sender.work(link, lambda sent: _tracker(folder, name, sent, sets, switch_on))
            except GaveUpError as error:
                logging.getLogger("ftcore").error("gave up", exc_info=error.__cause__)
                return ExitCode.RUN_FAILED
            finally:  # a library must not keep the process with threads that never end
                faulthandler.dump_traceback_later(LEAVE_SECONDS, exit=True)
    return ExitCode.DONE


def _tracker(folder: Path, name: str, sent: int, sets: Sequence[str], switch_on: Sequence[str]) -> Tracker:
    loaded = load_profile(folder / PROFILE, sets=sets, switch_on=switch_on, resolved=True)
    active = [plugin for plugin in loaded.active if plugin.source.name == name]
    if not active:
        raise RunError(f"the profile of {folder} names no plugin {name}")
    plugins, _ = build_plugins(active, report=logging.getLogger("ftcore").warning)
    return plugins.track(watched_run(folder, loaded), loaded.settings(), sent)


def watched_run(folder: Path, loaded: LoadedProfile) -> Run:
    """The run in `folder`, for those who only look at it."""
    resumed = bool(read_manifest(folder).resumes)
    return Run(name=loaded.run_name, folder=folder, profile=loaded.profile, resumed=resumed)


def _settle() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # those are for the run, which says when it is over
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which what it starts would inherit
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):  # when memory runs out, the system shall take the tracker and not the run
        Path("/proc/self/oom_score_adj").write_text("1000", "utf-8")


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the tracker. One of a run that was killed may still be sending what is left; it leaves then."""
    with lock_file(folder, name).open("a", encoding="utf-8") as file:
        until = time.monotonic() + LOCK_SECONDS
        while not _acquired(file.fileno()):
            if time.monotonic() > until:
                raise RunError(f"another process of the tracker {name} does not leave {folder}")
            time.sleep(0.1)
        yield


def _acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
