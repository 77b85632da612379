"""Start a run, go on with one, or do the work of one worker."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.attach import rank_log
from ftcore.display import Display, Silent, Steady
from ftcore.endings import failures_recorded
from ftcore.errors import CrashError, FtcoreError, Interrupted, Problem, ProfileError, RunError
from ftcore.isolation import Traced
from ftcore.launch import JOINED, NO_LAUNCHER, join, launch, try_launch, worker_command
from ftcore.manifest import Manifest, new_manifest, now, read_manifest
from ftcore.placement import is_several, leads
from ftcore.plugins import Plugins
from ftcore.preflight import LoadedProfile, check_profile, load_profile
from ftcore.ranks import Ranks
from ftcore.runlog import FILE as RUN_LOG
from ftcore.runlog import RunLog, logged_to
from ftcore.runs import PROFILE, create_run_folder, locked, planned_folder, write_profile
from ftcore.session import Session
from ftcore.signals import StopSignals
from ftcore.values import Outcome, Profile, Run, RunState, World
from ftcore.world import enter_world, worker_world

Record = Callable[[Traced], None]


def check(loaded: LoadedProfile, *, report: Callable[[str], None]) -> list[Problem]:
    """Find every mistake without heavy imports, and return the warnings. Raises as `run` does.

    Of a run of several processes, the launch is tried as well: its processes start, meet, and end.
    """
    this = planned(loaded, enter_world())
    plugins, warnings = check_profile(loaded, this, report=report)
    if this.world.size > 1:
        plugins.share(this, "" if this.world.is_main else None)
    elif is_several(this):
        try_launch(plugins, this, loaded)
    return warnings


def planned(loaded: LoadedProfile, world: World | None = None) -> Run:
    """The run that would start now; its folder is not there."""
    folder = planned_folder(loaded.profile.run.output_dir, loaded.run_name)
    return Run(name=loaded.run_name, folder=folder, profile=loaded.profile, world=world or World())


def run(loaded: LoadedProfile, *, display: Display | None = None, record: Record | None = None) -> Outcome:
    """Check, train, prove and ship what a profile says, in a new run folder.

    Several processes that somebody else has started (torchrun, Slurm) call it each, and work on one run.
    Raises `ProfileError`, `PluginError` or `RunError` for what is wrong, and `Interrupted` after a
    clean stop by SIGINT or SIGTERM.
    """

    def begin(this: Run) -> tuple[Path, Manifest]:
        manifest = new_manifest(this.name, loaded.settings(), loaded.active)
        return create_run_folder(this.folder, manifest.settings, manifest), manifest

    with failures_recorded():
        world = enter_world()
        display = _steady(world, display)
        this = planned(loaded, world)
        plugins = _checked_plugins(loaded, this, display, record)
        if is_several(this) and not leads(this):
            return join(plugins, this, loaded, display)
        this, manifest = _agreed(plugins, this, begin)
        display.say(f"run folder: {this.folder}")
        return _launch_or_execute(plugins, this, manifest, display, record)


def resume(
    folder: Path,
    *,
    sets: Sequence[str] = (),
    checkpoint: int | None = None,
    allow_changes: bool = False,
    display: Display | None = None,
    record: Record | None = None,
) -> Outcome:
    """Go on with the run in `folder` from its newest checkpoint that verifies, or from that of step `checkpoint`.

    Raises as `run` does, and `RunError` when the run has finished, is in use, or would go on with other
    settings, data or weights than it began with and `allow_changes` is false.
    """
    with failures_recorded():
        world = enter_world()
        display = _steady(world, display)
        folder = folder.absolute()
        manifest = read_manifest(folder)
        loaded = load_profile(folder / PROFILE, sets=sets, resolved=True)
        changes = _refuse_changes(manifest, loaded, folder, allow_changes=allow_changes)
        profile = _pinned(loaded.profile, manifest)
        this = Run(name=loaded.run_name, folder=folder, profile=profile, resumed=True, world=world)
        plugins = _checked_plugins(loaded, this, display, record)
        resumed = {"at": now(), "changes": changes, "changes_allowed": allow_changes, "checkpoint": checkpoint}
        manifest = _resumed(manifest, loaded, resumed)
        if is_several(this) and not leads(this):
            return join(plugins, this, loaded, display)
        this, manifest = _agreed(plugins, this, lambda this: (this.folder, manifest))
        return _launch_or_execute(plugins, this, manifest, display, record)


def work(folder: Path, *, display: Display, record: Record | None = None) -> Outcome:
    """Do the work of one worker of the run in `folder`, which a launcher started."""

    def begin(this: Run) -> tuple[Path, Manifest]:
        return this.folder, manifest if not this.world.restart else _restarted(manifest)

    with failures_recorded():
        world = worker_world()
        display = _steady(world, display)
        manifest = read_manifest(folder)
        loaded = load_profile(folder / PROFILE, resolved=True)
        resumed = bool(manifest.resumes) or world.restart > 0
        profile = _pinned(loaded.profile, manifest)
        this = Run(name=loaded.run_name, folder=folder, profile=profile, resumed=resumed, world=world)
        plugins = _checked_plugins(loaded, this, display, record)
        this, manifest = _agreed(plugins, this, begin)
        if this.folder != folder and world.is_first_here:
            (folder / JOINED).write_text(str(this.folder), "utf-8")
        return execute(plugins, this, manifest, display)


def probe(folder: Path) -> None:
    """Only meet the other workers, to see that they can be started and reach each other."""
    with failures_recorded():
        loaded = load_profile(folder / PROFILE, resolved=True)
        this = Run(name=loaded.run_name, folder=folder, profile=loaded.profile, world=worker_world())
        plugins = _checked_plugins(loaded, this, Silent(), None)
        Ranks(plugins, this).wait()


def execute(plugins: Plugins, run: Run, manifest: Manifest, display: Display) -> Outcome:
    """Do the work of a run whose folder is there, and tell everyone how it ended."""
    with ExitStack() as stack:
        shown = stack.enter_context(_logged(run, display))
        signals = stack.enter_context(StopSignals())
        if manifest.resumes and run.world.is_main:
            _write_resumed(run, manifest)
        session = Session(plugins, run, manifest, shown, signals)
        try:
            outcome = session.work()
        except BaseException as error:
            signals.deferred = True
            # The user reads one sentence; run.log keeps where it came from.
            logging.getLogger("ftcore").error("the run has ended early", exc_info=error)
            failed = session.failed(error)
            with contextlib.suppress(OSError):  # on a full disk the first error is the one to tell
                session.ended(failed)
            if run.world.started_by != "ftcore":  # else the launcher says it, or starts again
                display.say(f"to go on: ftcore run --resume {run.folder}")
            if isinstance(error, FtcoreError | Interrupted):
                raise
            # A trainer that calls sys.exit(0) must not end the run as a success.
            log = RUN_LOG if run.world.is_main else rank_log(run.folder, run.world.rank).relative_to(run.folder)
            raise CrashError(f"{failed.reason}; {log} says where") from error
        signals.deferred = True
        session.ended(outcome)
    return outcome


@contextmanager
def _logged(run: Run, display: Display) -> Iterator[Display]:
    """The main process holds the run, and writes down what it shows; another one has a file of its own."""
    if not run.world.is_main:
        with logged_to(rank_log(run.folder, run.world.rank)):
            yield display
        return
    with locked(run.folder), RunLog(run.folder, display) as shown:
        yield shown


def _agreed(plugins: Plugins, run: Run, begin: Callable[[Run], tuple[Path, Manifest]]) -> tuple[Run, Manifest]:
    """The run with the folder and the manifest that the main process began it with."""

    def say() -> dict[str, Any]:
        folder, manifest = begin(run)
        return {"folder": str(folder), "manifest": attrs.asdict(manifest), "resumed": run.resumed}

    heard = Ranks(plugins, run).tell(say)
    manifest = Manifest(**heard["manifest"])
    profile = _pinned(run.profile, manifest)
    return attrs.evolve(run, folder=Path(heard["folder"]), profile=profile, resumed=heard["resumed"]), manifest


def _steady(world: World, display: Display | None) -> Steady:
    return Steady((display or Silent()) if world.is_main else Silent())


def _checked_plugins(loaded: LoadedProfile, run: Run, display: Display, record: Record | None) -> Plugins:
    def report(text: str) -> None:
        display.say(text)
        logging.getLogger("ftcore").warning(text)  # into run.log, once there is one

    plugins, warnings = check_profile(loaded, run, report=report, record=record)
    for warning in warnings:
        display.say(str(warning))
    return plugins


def _launch_or_execute(
    plugins: Plugins, run: Run, manifest: Manifest, display: Steady, record: Record | None
) -> Outcome:
    if run.world.size > 1:
        return execute(plugins, run, manifest, display)
    with locked(run.folder):
        if manifest.resumes:  # the workers read from the folder that, and how, the run goes on
            _write_resumed(run, manifest)
    command = worker_command(run.folder, quiet=display.is_silent, trace=record is not None)
    outcome = launch(plugins, run, display, command)
    if outcome is not None:
        return outcome
    if is_several(run):
        raise RunError(NO_LAUNCHER)
    return execute(plugins, run, manifest, display)


def _write_resumed(run: Run, manifest: Manifest) -> None:
    write_profile(run.folder, manifest.settings)
    manifest.write(run.folder)


def _resumed(manifest: Manifest, loaded: LoadedProfile, resumed: Mapping[str, Any]) -> Manifest:
    return attrs.evolve(
        manifest,
        state=RunState.RUNNING,
        reason="",
        ended="",
        settings=loaded.settings(),
        stopped_at=0 if resumed["changes"] else manifest.stopped_at,
        resumes=[*manifest.resumes, resumed],
    )


def _restarted(manifest: Manifest) -> Manifest:
    return attrs.evolve(manifest, state=RunState.RUNNING, reason="", ended="")


def _refuse_changes(manifest: Manifest, loaded: LoadedProfile, folder: Path, *, allow_changes: bool) -> list[str]:
    changes = _changes(manifest.settings, loaded.settings())
    if manifest.state == RunState.FINISHED and not changes:
        raise RunError(f"{folder} has finished; to train on, pass --set train.max_steps=N and --allow-changes")
    if changes and not allow_changes:
        raise ProfileError(f"the profile has changed since the run began ({'; '.join(changes)}); pass --allow-changes")
    return changes


def _pinned(profile: Profile, manifest: Manifest) -> Profile:
    """A branch may have moved on since the run began; the run goes on from the commit that it stood for."""
    revision = manifest.model.get("revision", "")
    if profile.model.revision or not revision or manifest.settings["model"]["id"] != profile.model.id:
        return profile
    return attrs.evolve(profile, model=attrs.evolve(profile.model, revision=revision))


def _changes(before: Any, after: Any, key: str = "") -> list[str]:
    """Every key whose value differs, such as `train.seed: 1 -> 2`."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{key}: {_shown(before)} -> {_shown(after)}"]
    return [
        change
        for name in sorted({**before, **after})
        for change in _changes(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    ]


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value)
