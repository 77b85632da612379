"""The tuned model of an earlier run, opened again without training: to export it, to judge it, to ask it something."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.checkpoints import CheckpointStore
from ftcore.data.prepare import Prepared, clean, prepare
from ftcore.display import Display, Silent, Steady
from ftcore.early_end import resume_command
from ftcore.errors import CrashError, FtcoreError, Interrupted, ProfileError, RunError
from ftcore.hardware.usage import set_threads
from ftcore.locks import borrowed
from ftcore.manifest import Manifest, read_manifest
from ftcore.plugins import Plugins, implemented_hooks
from ftcore.preflight import LoadedProfile, check_profile, load_profile
from ftcore.resuming import began_with, changed_since, changes_between, fingerprint_of, pinned
from ftcore.runlog import FILE as RUN_LOG
from ftcore.runlog import RunLog
from ftcore.runs import PROFILE, saved_in
from ftcore.secrets import settings_without_logins
from ftcore.signals import StopSignals
from ftcore.values import Loaded, Run, RunState, Trainer

STAGES = ("reading rows", "formatting data", "loading model", "loading weights")
SHIPPING = frozenset({"check", "export_size", "write_reference", "export", "verify", "publish"})
"""Hooks that have no part in what the model is."""

ALLOW = "pass --allow-changes to go on all the same"


@attrs.frozen(kw_only=True)
class Opened:
    """A run that is held, with its plugins. Neither rows nor weights are read yet."""

    plugins: Plugins
    run: Run
    manifest: Manifest
    display: Display
    allow_changes: bool
    stages: tuple[str, ...] = STAGES

    @property
    def checkpoints(self) -> CheckpointStore:
        """The run's checkpoints."""
        return CheckpointStore(folder=self.run.folder / "checkpoints", keep=self.run.profile.train.save_limit)

    def weights(self, checkpoint: int | None) -> Path:
        """The folder with the weights of a step's checkpoint, or with those that the run ended with.

        Raises `RunError` when they are not there, or do not verify.
        """
        if checkpoint is not None:
            return self.checkpoints.named(checkpoint).folder
        saved, manifest = saved_in(self.run.folder), self.manifest
        steps = ", ".join(str(each.step) for each in self.checkpoints.all())
        fix = f"pass --checkpoint with a step of {steps}" if steps else f"resume it: {resume_command(self.run.folder)}"
        if saved is None:
            state = "was killed" if manifest.state == RunState.RUNNING else f"is {manifest.state}"  # we hold its lock
            raise RunError(f"{self.run.folder} {state} and has saved neither adapter nor model; {fix}")
        ended = manifest.state == RunState.FINISHED and not manifest.saved_at  # an older version did not say
        if not ended and (manifest.saved_after or manifest.saved_at) != manifest.step:
            behind = f"is of step {manifest.saved_at} and the run has gone on to {manifest.step}"
            raise RunError(f"{saved} {behind}; {fix}")
        return saved

    def stage(self, title: str) -> None:
        """Tell how far the work is."""
        self.display.stage(self.stages.index(title) + 1, len(self.stages), title)

    def refuse_change(self, what: str, before: str | None, now: str) -> None:
        """Raise `RunError` for data or a model that have changed, unless changes are allowed; then say so."""
        changed = changed_since(what, before, now)
        if changed and not self.allow_changes:
            raise RunError(f"{changed}; {ALLOW}")
        if changed:
            self.display.say(f"warning: {changed}")


@attrs.frozen(kw_only=True)
class Reopened:
    """The run's rows, and its model as it was before training until `put` is called.

    `loaded.model` is the model that the trainer holds: both answer with the weights that were put in last.
    """

    opened: Opened
    prepared: Prepared
    loaded: Loaded
    trainer: Trainer

    def put(self, weights: Path) -> None:
        """Put in the weights that `Opened.weights` names. Raises `RunError` when they are not this model's."""
        self.trainer.load(weights)


@contextmanager
def opened(
    folder: Path,
    *,
    sets: Sequence[str] = (),
    switch_on: Sequence[str] = (),
    switch_off: Sequence[str] = (),
    allow_changes: bool = False,
    display: Display | None = None,
) -> Iterator[Opened]:
    """Hold the run in `folder`, whatever its state, and check its profile as it would be used now.

    What has no part in the model (`hardware`, `export`, plugins that only ship) may differ from what the run began
    with. Raises `ProfileError` for other changes unless `allow_changes`, and `RunError` when another process has it.
    """
    place, shown = folder.absolute(), Steady(display or Silent())
    manifest = read_manifest(place)
    loaded = load_profile(place / PROFILE, sets=sets, switch_on=switch_on, switch_off=switch_off, resolved=True)
    ships = {plugin.source.name for plugin in loaded.active if SHIPPING.issuperset(implemented_hooks(plugin.cls))}
    changes = _changes(manifest, loaded, ships.union(switch_off))
    _refuse_settings(changes, allow_changes, display=shown)
    run = _as_one_process(loaded, manifest, place)
    plugins, warnings = check_profile(loaded, run, report=shown.say)
    shippers = {name for hook in ("export", "publish") for name in plugins.implementers(hook)}
    with ExitStack() as stack:
        stack.enter_context(borrowed(place))
        log = stack.enter_context(RunLog(place, shown))
        for warning in warnings:
            if warning.key.partition("plugin.")[2].partition(".")[0] in shippers:  # the others are about training
                log.say(str(warning))
        stack.enter_context(StopSignals())
        stack.callback(clean, run)
        stack.enter_context(_crashes_told())
        yield Opened(plugins=plugins, run=run, manifest=read_manifest(place), display=log, allow_changes=allow_changes)


def read_rows(opened: Opened) -> Prepared:
    """Read the run's rows alone. Raises `RunError` when they have changed, unless changes are allowed."""
    prepared = prepare(opened.plugins, opened.run, opened.stage)
    opened.refuse_change("data", opened.manifest.data.get("fingerprint"), prepared.fingerprint)
    return prepared


def reopen(opened: Opened, prepared: Prepared | None = None) -> Reopened:
    """Read the run's model, and its rows if they are not `prepared` yet.

    Raises `RunError` when they have changed, unless changes are allowed.
    """
    plugins, run, manifest = opened.plugins, opened.run, opened.manifest
    set_threads(run.profile.hardware.threads)
    prepared = prepared or read_rows(opened)
    opened.stage("loading model")
    loaded = plugins.load_model(run, prepared.processor, plugins.quantize(run))
    opened.refuse_change("model", manifest.model.get("fingerprint"), fingerprint_of(loaded))
    loaded = plugins.adapt(run, loaded)
    trainer = plugins.make_trainer(run, loaded, prepared.data, plugins.training_args(run))
    opened.stage("loading weights")
    return Reopened(opened=opened, prepared=prepared, loaded=loaded, trainer=trainer)


def _changes(manifest: Manifest, loaded: LoadedProfile, ships: set[str]) -> list[str]:
    found = began_with(manifest, loaded), settings_without_logins(loaded.settings())
    before, now = (_about_the_model(settings, ships) for settings in found)
    return changes_between(before, now)


def _refuse_settings(changes: Sequence[str], allowed: bool, *, display: Display) -> None:
    if changes and not allowed:
        raise ProfileError(f"the profile has changed since the run began ({'; '.join(changes)}); {ALLOW}")
    for change in changes:
        display.say(f"warning: the profile has changed since the run began: {change}")


def _about_the_model(settings: Mapping[str, Any], ships: set[str]) -> dict[str, Any]:
    kept = {name: table for name, table in settings.items() if name not in ("hardware", "export")}
    plugins = {name: table for name, table in settings.get("plugin", {}).items() if name not in ships}
    return {**kept, "plugin": plugins}


def _as_one_process(loaded: LoadedProfile, manifest: Manifest, folder: Path) -> Run:
    """However many have trained it, one process holds it now."""
    profile = pinned(loaded.profile, manifest)
    hardware = attrs.evolve(profile.hardware, processes=1, machines=1, rendezvous="")
    profile = attrs.evolve(profile, hardware=hardware)
    return Run(name=loaded.run_name, folder=folder, profile=profile, resumed=True)


@contextmanager
def _crashes_told() -> Iterator[None]:
    try:
        yield
    except (FtcoreError, Interrupted) as error:
        logging.getLogger("ftcore").error("ended early", exc_info=error)
        raise
    except Exception as error:
        logging.getLogger("ftcore").error("ended early", exc_info=error)
        raise CrashError(f"{type(error).__name__}: {error}; {RUN_LOG} says where") from error
