"""Try every tracker of a profile without a run: each is opened on a scratch run, given one point, and closed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from ftcore.journal.writing import Journal
from ftcore.manifest import new_manifest
from ftcore.preflight import LoadedProfile
from ftcore.runs import write_profile
from ftcore.tracking.cursor import log_file
from ftcore.tracking.starting import Say
from ftcore.tracking.sync import Sent, send_all, trackers_of
from ftcore.values import EventKind, RunState

SUFFIX = "-dry-run"
DRY_RUN_SECONDS = 120.0


def dry_run(loaded: LoadedProfile, say: Say, seconds: float = DRY_RUN_SECONDS) -> list[Sent]:
    """What became of each tracker. The scratch run is called NAME-dry-run, and its folder is removed again."""
    names = [plugin.source.name for plugin in trackers_of(loaded)]
    if not names:
        return []
    with _scratch_run(loaded) as folder:

        def lasting(text: str) -> None:
            if str(folder.parent) not in text:  # which is gone when the user looks
                say(text)

        return [_with_last_words(folder, sent) for sent in send_all(folder, names, [], seconds, lasting)]


@contextmanager
def _scratch_run(loaded: LoadedProfile) -> Iterator[Path]:
    name = f"{loaded.run_name}{SUFFIX}"
    above = Path(tempfile.mkdtemp(prefix="ftcore-"))
    try:
        folder = above / name
        folder.mkdir()
        settings = loaded.settings()
        settings["run"]["name"] = name
        write_profile(folder, settings)
        new_manifest(name, settings, loaded.active).write(folder)
        with Journal(folder) as journal:
            journal.begin(0, 1)
            journal.point(1, {"loss": 1.0, "learning_rate": 0.0})
            journal.stepped(1)
            journal.event(EventKind.ENDED, state=RunState.FINISHED, reason="dry run")
        yield folder
    finally:
        shutil.rmtree(above, ignore_errors=True)


def _with_last_words(folder: Path, sent: Sent) -> Sent:
    """The log of a tracker that failed without an error goes with the folder; its last line may say why."""
    if not sent.lacks or sent.error:
        return sent
    lines = log_file(folder, sent.name).read_text("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it has said nothing")
    return attrs.evolve(sent, error=last)
