"""What a run goes on with: the settings, the commit of its model, and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.checkpoints import Checkpoint, CheckpointStore
from ftcore.errors import ProfileError, RunError
from ftcore.files import content_digest
from ftcore.manifest import Manifest, now, plugins_of
from ftcore.preflight import LoadedProfile
from ftcore.runs import write_profile
from ftcore.secrets import settings_without_logins
from ftcore.values import Loaded, Profile, Run, RunState


def resumed_manifest(
    manifest: Manifest, loaded: LoadedProfile, folder: Path, *, checkpoint: int | None, allow_changes: bool
) -> Manifest:
    """That of a run that goes on with what `loaded` says.

    Raises `RunError` for one that has finished, and `ProfileError` for other settings than it began with, unless
    `allow_changes`.
    """
    settings = settings_without_logins(loaded.settings())
    changes = changes_between(began_with(manifest, loaded), settings)
    if manifest.state == RunState.FINISHED and not changes:
        raise RunError(_finished(manifest, folder))
    if changes and not allow_changes:
        raise ProfileError(f"the profile has changed since the run began ({'; '.join(changes)}); pass --allow-changes")
    resumed = {"at": now(), "changes": changes, "changes_allowed": allow_changes, "checkpoint": checkpoint}
    if any(change.startswith("train.micro_batch_size:") for change in changes):
        manifest = attrs.evolve(manifest, micro_batch_size=0)
    if changes or checkpoint not in (None, manifest.stopped_at):  # else it must not train on
        manifest = attrs.evolve(manifest, stopped_at=0, stop_reason="")
    resumes = [*manifest.resumes, resumed]
    return attrs.evolve(
        restarted_manifest(manifest), settings=settings, plugins=plugins_of(loaded.active), resumes=resumes
    )


def _finished(manifest: Manifest, folder: Path) -> str:
    """What stands in the way of training on, and how to go round it."""
    if not manifest.stopped_at:
        return f"{folder} has finished; to train on, pass --set train.max_steps=N and --allow-changes"
    done = f"{folder} has finished, stopped at step {manifest.stopped_at} of {manifest.total_steps}"
    plugin = manifest.stop_reason.partition(":")[0]
    known = plugin in manifest.settings.get("plugin", {})
    way = f"pass --without {plugin}" if known else "leave out the plugin that stopped it (--without)"
    return f"{done} ({manifest.stop_reason}); to train on, {way} and --allow-changes"


def restarted_manifest(manifest: Manifest) -> Manifest:
    """That of a run whose workers have been started again."""
    return attrs.evolve(manifest, state=RunState.RUNNING, reason="", ended="", best={})


def write_resumed(folder: Path, manifest: Manifest, settings: Mapping[str, Any]) -> None:
    """From now on the folder says that, and how, the run goes on."""
    write_profile(folder, settings)
    manifest.write(folder)


def in_smaller_batches(manifest: Manifest, rows: int) -> Manifest:
    """That of a run whose processes take micro-batches of so many rows from now on; 0 changes nothing."""
    return attrs.evolve(manifest, micro_batch_size=rows) if rows else manifest


def pinned(profile: Profile, manifest: Manifest) -> Profile:
    """The profile that the run goes on with, where that is not what it says today."""
    rows, train = manifest.micro_batch_size, profile.train
    if rows and rows < (train.micro_batch_size or train.batch_size):
        profile = attrs.evolve(profile, train=attrs.evolve(train, micro_batch_size=rows))
    return _at_the_commit(profile, manifest)


def _at_the_commit(profile: Profile, manifest: Manifest) -> Profile:
    """A branch may have moved on since the run began; the run goes on from the commit that it stood for."""
    revision = manifest.model.get("revision", "")
    if profile.model.revision or not revision or manifest.settings["model"]["id"] != profile.model.id:
        return profile
    return attrs.evolve(profile, model=attrs.evolve(profile.model, revision=revision))


def changed_since(what: str, before: str | None, now: str) -> str:
    """Words for data or a model that are not those that the run began with; empty if they are, or were not known."""
    if before in (None, now):
        return ""
    return f"the {what} has changed since the run began (fingerprint {str(before)[:12]}, now {now[:12]})"


def fingerprint_of(loaded: Loaded) -> str:
    """What tells one base model from another: its files if it is a folder, else its commit."""
    local = loaded.base and Path(loaded.base).is_dir()
    return content_digest(Path(loaded.base)) if local else loaded.revision


def last_checkpoint(
    run: Run, manifest: Manifest, store: CheckpointStore, say: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to go on from, none for the start. Raises `RunError` when there are some, and none verifies."""
    if not run.resumed:
        return None
    wanted = None if run.world.restart > 0 else manifest.last_resume.get("checkpoint")
    checkpoint = store.newest(say) if wanted is None else store.named(wanted)
    if checkpoint is None and store.all():
        raise RunError(f"no checkpoint in {store.folder} verifies; to begin again, delete that folder")
    start = f"the checkpoint of step {checkpoint.step}" if checkpoint else "the start; no checkpoint was committed"
    say(f"going on from {start}")
    return checkpoint


def began_with(manifest: Manifest, loaded: LoadedProfile) -> dict[str, Any]:
    """The settings of the run, and the default of each option that the version it began with did not have."""
    before, defaults = settings_without_logins(manifest.settings), loaded.defaults()
    plugins = before.get("plugin", {})
    known = {name: {**defaults["plugin"].get(name, {}), **table} for name, table in plugins.items()}
    tables = {name: {**table, **before.get(name, {})} for name, table in defaults.items()}
    return {**before, **tables, "plugin": known}


def changes_between(before: Any, after: Any, key: str = "") -> list[str]:
    """Every key whose value differs, such as `train.seed: 1 -> 2`."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return [] if before == after else [f"{key}: {_shown(before, key)} -> {_shown(after, key)}"]
    return [
        change
        for name in sorted({**before, **after})
        for change in changes_between(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    ]


def _shown(value: Any, key: str) -> str:
    table, _, name = key.partition(".")
    if table == "plugin" and name and "." not in name:  # all its options would bury the news
        return "off" if value is None else "on"
    return "unset" if value is None else repr(value)
