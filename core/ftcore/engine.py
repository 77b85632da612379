"""Start a run, go on with one, or do the work of one worker."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from ftcore.display import Display, Silent, Steady
from ftcore.errors import Problem, RunError
from ftcore.executing import Begun, execute, nobody
from ftcore.isolation import Traced
from ftcore.locks import COMMAND_LOCK, locked
from ftcore.manifest import Manifest, new_manifest, read_manifest
from ftcore.plugins import Plugins
from ftcore.preflight import LoadedProfile, check_profile, load_profile
from ftcore.processes.failures import failures_recorded
from ftcore.processes.last_words import forget, smaller_batch_in
from ftcore.processes.launch import JOINED, NO_LAUNCHER, join, launch, try_launch, worker_command
from ftcore.processes.placement import is_several, leads
from ftcore.processes.ranks import Ranks
from ftcore.processes.world import enter_world, is_job_script, worker_world
from ftcore.resuming import in_smaller_batches, pinned, restarted_manifest, resumed_manifest, write_resumed
from ftcore.runs import PROFILE, create_run_folder, planned_folder
from ftcore.values import Outcome, Run, World

Record = Callable[[Traced], None]


def check(loaded: LoadedProfile, *, report: Callable[[str], None]) -> list[Problem]:
    """Find every mistake without heavy imports, and return the warnings. Raises as `run` does.

    Of a run of several processes, the launch is tried as well: its processes start, meet, and end.
    """
    # A job's script may check the profile before srun starts its tasks.
    this = planned(loaded, World() if is_job_script() else enter_world())
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


@failures_recorded()
def run(
    loaded: LoadedProfile,
    *,
    display: Display | None = None,
    record: Record | None = None,
    begun: Begun | None = None,
) -> Outcome:
    """Check, train, prove and ship what a profile says, in a new run folder.

    `begun` is told the folder once the run holds it: from then on, its manifest says how the run stands.
    Several processes that somebody else has started (torchrun, Slurm) call it each, and work on one run.
    Raises `ProfileError`, `PluginError` or `RunError` for what is wrong, and `Interrupted` after a
    clean stop by SIGINT or SIGTERM.
    """
    world = enter_world()
    shown = _steady(world, display)
    this = planned(loaded, world)

    def begin() -> tuple[Path, Manifest]:
        manifest = new_manifest(this.name, loaded.settings(), loaded.active)
        folder = create_run_folder(this.folder, loaded.settings(), manifest)
        shown.say(f"run folder: {folder}")
        return folder, manifest

    plugins = _checked_plugins(loaded, this, shown, record)
    if _joins(this):
        return join(plugins, this, loaded, shown)
    this, manifest = _agreed(plugins, this, begin)
    return _launch_or_execute(plugins, this, manifest, shown, begun or nobody, trace=record is not None)


@failures_recorded()
def resume(
    folder: Path,
    *,
    sets: Sequence[str] = (),
    switch_on: Sequence[str] = (),
    switch_off: Sequence[str] = (),
    checkpoint: int | None = None,
    allow_changes: bool = False,
    display: Display | None = None,
    record: Record | None = None,
    begun: Begun | None = None,
) -> Outcome:
    """Go on with the run in `folder` from its newest checkpoint that verifies, or from that of step `checkpoint`.

    Raises as `run` does, and `RunError` when the run has finished, is in use, or would go on with other
    settings, data or weights than it began with and `allow_changes` is false.
    """
    world = enter_world()
    shown = _steady(world, display)
    changed = {"sets": sets, "switch_on": switch_on, "switch_off": switch_off}
    loaded, this, manifest = _opened(folder.absolute(), world, resumed=True, **changed)
    manifest = resumed_manifest(manifest, loaded, this.folder, checkpoint=checkpoint, allow_changes=allow_changes)
    plugins = _checked_plugins(loaded, this, shown, record)
    if _joins(this):
        return join(plugins, this, loaded, shown)
    this, agreed = _agreed(plugins, this, lambda: (this.folder, manifest))

    def goes_on(place: Path) -> None:
        write_resumed(place, agreed, loaded.settings())
        (begun or nobody)(place)

    return _launch_or_execute(plugins, this, agreed, shown, goes_on, trace=record is not None)


@failures_recorded()
def work(folder: Path, *, display: Display, record: Record | None = None) -> Outcome:
    """Do the work of one worker of the run in `folder`, which a launcher started."""
    world = worker_world()
    shown = _steady(world, display)
    loaded, this, found = _opened(folder, world, resumed=world.restart > 0)
    manifest = restarted_manifest(found) if world.restart else found
    plugins = _checked_plugins(loaded, this, shown, record)
    this, manifest = _agreed(plugins, this, lambda: (folder, manifest))
    if this.folder != folder and world.is_first_here:
        (folder / JOINED).write_text(str(this.folder), "utf-8")
    return execute(plugins, this, manifest, shown)


@failures_recorded()
def probe(folder: Path) -> None:
    """Only meet the other workers, to see that they can be started, reach each other and share a file system."""
    loaded, this, _ = _opened(folder, worker_world())
    plugins = _checked_plugins(loaded, this, Silent(), None)
    ranks, output_dir = Ranks(plugins, this), this.profile.run.output_dir
    with ExitStack() as stack:  # the run's own folder is not made

        def make() -> str:
            there = next(path for path in (output_dir, *output_dir.parents) if path.is_dir())
            return stack.enter_context(tempfile.TemporaryDirectory(prefix=".ftcore-", dir=there))

        ranks.require_shared(Path(ranks.tell(make)))


def _opened(
    folder: Path, world: World, *, resumed: bool = False, **changed: Sequence[str]
) -> tuple[LoadedProfile, Run, Manifest]:
    """A run whose folder is there: what was asked for, the run itself, and how it stands."""
    manifest = in_smaller_batches(read_manifest(folder), smaller_batch_in(folder))
    loaded = load_profile(folder / PROFILE, resolved=True, **changed)
    resumed = resumed or bool(manifest.resumes)
    profile = pinned(loaded.profile, manifest)
    return loaded, Run(name=loaded.run_name, folder=folder, profile=profile, resumed=resumed, world=world), manifest


def _joins(run: Run) -> bool:
    """Whether another machine leads the run, and this one only starts its share of the workers."""
    return is_several(run) and not leads(run)


def _agreed(plugins: Plugins, run: Run, begin: Callable[[], tuple[Path, Manifest]]) -> tuple[Run, Manifest]:
    """The run with the folder and the manifest that the main process began it with."""

    def say() -> dict[str, Any]:
        folder, manifest = begin()
        forget(folder)
        return {"folder": str(folder), "manifest": attrs.asdict(manifest), "resumed": run.resumed}

    heard = Ranks(plugins, run).tell(say)
    manifest = Manifest(**heard["manifest"])
    profile = pinned(run.profile, manifest)
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
    plugins: Plugins, run: Run, manifest: Manifest, display: Steady, begun: Begun, *, trace: bool
) -> Outcome:
    if not run.world.is_main:
        return execute(plugins, run, manifest, display)
    with locked(run.folder, COMMAND_LOCK):
        if run.world.size > 1:
            return execute(plugins, run, manifest, display, begun)
        with locked(run.folder):  # a run that goes on says so, and how, in its folder, where the workers read it
            begun(run.folder)
        outcome = launch(plugins, run, display, worker_command(run.folder, progress=display.mode, trace=trace))
        if outcome is not None:
            return outcome
        if is_several(run):
            raise RunError(NO_LAUNCHER)
        return execute(plugins, run, manifest, display)
