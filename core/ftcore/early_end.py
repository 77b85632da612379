"""How a run ends early: why, in words, and how to go on with it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from ftcore.checkpoints import CheckpointStore
from ftcore.errors import CrashError, FtcoreError, Interrupted, RunError
from ftcore.files import disk_is_full
from ftcore.processes.attach import rank_log
from ftcore.processes.failures import comes_again, lost_another
from ftcore.runlog import FILE as RUN_LOG
from ftcore.values import Run

GONE = "another process has gone, which has said why itself if it could"


def reason_of(error: BaseException, folder: Path) -> str:
    """Why the run in `folder`, which raised `error`, has ended."""
    if isinstance(error, OSError) and disk_is_full(error):
        free = shutil.disk_usage(folder).free / 2**20
        return f"no space left on the disk ({folder} has {free:.0f} MiB free); free some and resume"
    if lost_another(error) and not isinstance(error, RunError):  # torch tells of sockets
        return GONE
    return str(error) if isinstance(error, FtcoreError | Interrupted) else f"{type(error).__name__}: {error}"


def told_as(error: BaseException, run: Run, reason: str) -> FtcoreError | Interrupted:
    """What the caller of a run that has ended for this reason is told: a trainer's `sys.exit(0)` is no success."""
    if isinstance(error, FtcoreError | Interrupted):
        return error
    log = RUN_LOG if run.world.is_main else rank_log(run.folder, run.world.rank).relative_to(run.folder)
    crash = CrashError(f"{reason}; {log} says where")
    crash.__cause__ = error
    return crash


def last_step(folder: Path) -> int | None:
    """The step that a run can go on from; None without a checkpoint."""
    steps = [checkpoint.step for checkpoint in CheckpointStore(folder=folder / "checkpoints", keep=0).all()]
    return steps[-1] if steps else None


def way_on(folder: Path) -> str:
    """How to go on with a run that was stopped or killed, and from where."""
    step = last_step(folder)
    where = "from the start, since it has no checkpoint" if step is None else f"from step {step}"
    return f"to go on {where}: {resume_command(folder)}"


def resume_command(folder: Path) -> str:
    """What goes on with a run."""
    return f"ftcore run --resume {shlex.quote(str(folder))}"


def way_on_once_mended(folder: Path) -> str:
    """The same for a run that would fail again as it is; empty where nothing is lost by a new one."""
    return "" if last_step(folder) is None else f"once that is mended, {way_on(folder)}"


def way_on_after(error: BaseException, folder: Path) -> str:
    """How to go on with a run that raised `error`, if that helps: what is told on purpose comes again."""
    return way_on_once_mended(folder) if comes_again(error) else way_on(folder)
