"""Start a run, go on with one, or do the work of one worker."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from ftcore.display import Display, Silent, Steady
from ftcore.errors import ExitCode, FtcoreError, Interrupted, Problem, ProfileError, RunError
from ftcore.isolation import Traced
from ftcore.launch import launch
from ftcore.manifest import Manifest, new_manifest, now, read_manifest
from ftcore.plugins import Plugins
from ftcore.preflight import LoadedProfile, check_profile, load_profile
from ftcore.runlog import RunLog
from ftcore.runs import PROFILE, create_run_folder, locked, planned_folder, write_profile
from ftcore.session import Session
from ftcore.signals import StopSignals
from ftcore.values import Outcome, Profile, Run, RunState

Record = Callable[[Traced], None]


def check(loaded: LoadedProfile, *, report: Callable[[str], None]) -> list[Problem]:
    """Find every mistake without heavy imports, and return the warnings. Raises as `run` does."""
    _, warnings = check_profile(loaded, planned(loaded), report=report)
    return warnings


def planned(loaded: LoadedProfile) -> Run:
    """The run that would start now; its folder is not there."""
    folder = planned_folder(loaded.profile.run.output_dir, loaded.run_name)
    return Run(name=loaded.run_name, folder=folder, profile=loaded.profile)


def run(loaded: LoadedProfile, *, display: Display | None = None, record: Record | None = None) -> Outcome:
    """Check, train, prove and ship what a profile says, in a new run folder.

    Raises `ProfileError`, `PluginError` or `RunError` for what is wrong, and `Interrupted` after a
    clean stop by SIGINT or SIGTERM.
    """
    display = Steady(display or Silent())
    this = planned(loaded)
    plugins = _checked_plugins(loaded, this, display, record)
    manifest = new_manifest(this.name, loaded.settings(), loaded.active)
    this = attrs.evolve(this, folder=create_run_folder(this.folder, manifest.settings, manifest))
    display.say(f"run folder: {this.folder}")
    return _launch_or_execute(plugins, this, manifest, display)


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
    display = Steady(display or Silent())
    folder = folder.absolute()
    manifest = read_manifest(folder)
    loaded = load_profile(folder / PROFILE, sets=sets, resolved=True)
    changes = _changes(manifest.settings, loaded.settings())
    if manifest.state == RunState.FINISHED and not changes:
        raise RunError(f"{folder} has finished; to train on, pass --set train.max_steps=N and --allow-changes")
    if changes and not allow_changes:
        raise ProfileError(f"the profile has changed since the run began ({'; '.join(changes)}); pass --allow-changes")
    this = Run(name=loaded.run_name, folder=folder, profile=_pinned(loaded.profile, manifest), resumed=True)
    plugins = _checked_plugins(loaded, this, display, record)
    resumed = {"at": now(), "changes": changes, "changes_allowed": allow_changes, "checkpoint": checkpoint}
    manifest = _resumed(manifest, loaded, resumed)
    return _launch_or_execute(plugins, this, manifest, display)


def work(folder: Path, *, display: Display) -> Outcome:
    """Do the work of one worker of the run in `folder`, which a launcher started."""
    loaded = load_profile(folder / PROFILE, resolved=True)
    manifest = read_manifest(folder)
    profile = _pinned(loaded.profile, manifest)
    this = Run(name=loaded.run_name, folder=folder, profile=profile, resumed=bool(manifest.resumes))
    display = Steady(display)
    plugins = _checked_plugins(loaded, this, display, None)
    return execute(plugins, this, manifest, display)


def execute(plugins: Plugins, run: Run, manifest: Manifest, display: Display) -> Outcome:
    """Do the work of a run whose folder is there, and tell everyone how it ended."""
    with ExitStack() as stack:
        stack.enter_context(locked(run.folder))
        shown = stack.enter_context(RunLog(run.folder, display))
        signals = stack.enter_context(StopSignals())
        if manifest.resumes:
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
            display.say(f"to go on: ftcore run --resume {run.folder}")
            if isinstance(error, FtcoreError | Interrupted):
                raise
            # A trainer that calls sys.exit(0) must not end the run as a success.
            raise RunError(f"{failed.reason}; run.log says where") from error
        signals.deferred = True
        session.ended(outcome)
    return outcome


def _checked_plugins(loaded: LoadedProfile, run: Run, display: Display, record: Record | None) -> Plugins:
    def report(text: str) -> None:
        display.say(text)
        logging.getLogger("ftcore").warning(text)  # into run.log, once there is one

    plugins, warnings = check_profile(loaded, run, report=report, record=record)
    for warning in warnings:
        display.say(str(warning))
    return plugins


def _launch_or_execute(plugins: Plugins, run: Run, manifest: Manifest, display: Display) -> Outcome:
    if manifest.resumes and plugins.implementers("launch"):
        with locked(run.folder):  # the workers read from the folder that, and how, the run goes on
            _write_resumed(run, manifest)
    code = launch(plugins, run)
    if code is None:
        return execute(plugins, run, manifest, display)
    outcome = read_manifest(run.folder).outcome(run.folder)
    if code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED):
        raise Interrupted(outcome.reason or "the workers were stopped", ExitCode(code))
    if code:
        raise RunError(outcome.reason or f"the workers ended with exit code {code}; see {run.folder / 'run.log'}")
    return outcome


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
