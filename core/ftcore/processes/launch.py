"""Start the workers of a run and tell how they ended, or go on in this process."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.display import Display, Steady
from ftcore.early_end import way_on_after
from ftcore.errors import ExitCode, FtcoreError, Interrupted, RunError
from ftcore.manifest import new_manifest, now, read_manifest
from ftcore.plugins import Plugins
from ftcore.preflight import LoadedProfile
from ftcore.processes.placement import with_processes
from ftcore.report.document import write_report
from ftcore.runlog import RunLog
from ftcore.runs import write_profile
from ftcore.signals import StopSignals
from ftcore.values import Outcome, Run, RunState

JOINED = "joined"
"""In the folder that a further machine works from: the path of the run's own."""

STOPPED_BY = {ExitCode.RESUMABLE: "SIGTERM received", ExitCode.INTERRUPTED: "SIGINT received"}
"""For workers that were stopped before they could say so."""

NO_LAUNCHER = "no plugin launches several processes; name one that does, such as [plugin.elastic], or set them to 1"


def launch(plugins: Plugins, run: Run, display: Display, command: list[str], *, own: bool = True) -> Outcome | None:
    """How the workers that a plugin started have ended, or None when the run goes on here.

    `own` says that the folder is the run's. Raises `Interrupted` after a clean stop, and `FtcoreError` for what made
    them fail. Then the manifest says so.
    """
    with RunLog(run.folder, display) as shown, StopSignals():
        try:
            code = plugins.launch(with_processes(run), command)
            if code is None:
                return None
            return _outcome(run, code)
        except (FtcoreError, Interrupted) as error:
            _write_end(run, error)
            way_on = way_on_after(error, run.folder)
            if own and way_on:
                shown.say(way_on)
            raise


def join(plugins: Plugins, run: Run, loaded: LoadedProfile, display: Steady) -> Outcome:
    """Start this machine's share of the workers; the run's folder is made by the first machine, which they ask."""
    display.say(f"joining the run of {run.profile.hardware.rendezvous}")
    with _bench(run, loaded) as here:
        command = worker_command(here.folder, progress=display.mode)
        outcome = launch(plugins, here, display, command, own=False)
    if outcome is None:
        raise RunError(NO_LAUNCHER)
    return outcome


def try_launch(plugins: Plugins, run: Run, loaded: LoadedProfile) -> None:
    """Start workers that only meet, and end. Raises `FtcoreError` when they cannot."""
    with _bench(run, loaded) as here:
        code = plugins.launch(with_processes(_once(here)), worker_command(here.folder, probe=True))
    if code is None:
        raise RunError(NO_LAUNCHER)
    if code:
        raise RunError(f"the launch of {run.profile.hardware.processes} processes ended with exit code {code}")


def _once(run: Run) -> Run:
    hardware = attrs.evolve(run.profile.hardware, max_restarts=0)
    return attrs.evolve(run, profile=attrs.evolve(run.profile, hardware=hardware))


@contextmanager
def _bench(run: Run, loaded: LoadedProfile) -> Iterator[Run]:
    """A folder that workers find the profile in, and that is no run's."""
    folder = Path(tempfile.mkdtemp(prefix="ftcore-"))
    try:
        manifest = new_manifest(run.name, loaded.settings(), loaded.active)
        write_profile(folder, loaded.settings())
        manifest.write(folder)
        yield attrs.evolve(run, folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def worker_command(folder: Path, *, progress: str = "auto", trace: bool = False, probe: bool = False) -> list[str]:
    """The command that does the work of a run whose folder is there."""
    flags = {f"--progress={progress}": progress != "auto", "--trace-hooks": trace, "--probe": probe}
    chosen = [flag for flag, wanted in flags.items() if wanted]
    return [sys.executable, "-m", "ftcore.cli", "worker", str(folder), *chosen]


def _outcome(run: Run, code: int) -> Outcome:
    outcome = read_manifest(_folder(run)).outcome(_folder(run))
    if outcome.state is RunState.FINISHED:
        return outcome
    reason = outcome.reason
    if code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED) and outcome.state is not RunState.FAILED:
        raise Interrupted(reason or STOPPED_BY[ExitCode(code)], ExitCode(code))
    if outcome.state is RunState.STOPPED:
        raise Interrupted(reason or STOPPED_BY[ExitCode.RESUMABLE], ExitCode.RESUMABLE)
    if code or outcome.state is RunState.FAILED:
        raise RunError(reason or f"the workers ended with exit code {code}; see {_folder(run) / 'run.log'}")
    if _folder(run) != run.folder:  # the main process, on another machine, has exports to write still
        return outcome
    raise RunError(f"the workers have gone without a word; see {run.folder / 'run.log'}")


def _folder(run: Run) -> Path:
    """The run's folder; this machine may work from another one."""
    joined = run.folder / JOINED
    return Path(joined.read_text("utf-8")) if joined.is_file() else run.folder


def _write_end(run: Run, error: FtcoreError | Interrupted) -> None:
    """Workers that were killed, or never came up, have not said how the run ended."""
    manifest = read_manifest(run.folder)
    if manifest.state == RunState.FINISHED or manifest.reason == str(error):
        return
    state = RunState.STOPPED if isinstance(error, Interrupted) else RunState.FAILED
    ended = attrs.evolve(manifest, state=state, reason=str(error), ended=now())
    ended.write(run.folder)
    write_report(run.folder, ended)
