"""Send what trackers still lack of a run that has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from ftcore.assembly import build_plugins
from ftcore.errors import ProfileError, RunError, printable
from ftcore.locks import borrowed
from ftcore.manifest import read_manifest
from ftcore.plugins import Active, implemented_hooks
from ftcore.preflight import LoadedProfile, load_profile
from ftcore.runs import PROFILE
from ftcore.tracking.beside import send_rest
from ftcore.tracking.cursor import FOLDER, Cursor, cursor_file, write_cursor
from ftcore.tracking.following import left
from ftcore.tracking.process import watched_run
from ftcore.tracking.starting import Beside, Say

SYNC_SECONDS = 3600.0
"""Then a tracker that hangs is ended; what it has sent until then is sent."""


@attrs.frozen(kw_only=True)
class Sent:
    """What became of one tracker: how much it was given, and what it lacks still, empty if nothing, and why."""

    name: str
    points: int
    events: int
    lacks: str
    error: str
    seconds: float


def sync(
    folder: Path,
    *,
    only: Sequence[str] = (),
    sets: Sequence[str] = (),
    switch_on: Sequence[str] = (),
    again: bool = False,
    say: Say,
    seconds: float = SYNC_SECONDS,
) -> list[Sent]:
    """Send the rest of the run in `folder` to its trackers, or to those in `only`; all of it if `again`.

    `switch_on` names trackers that the run had not. Raises `RunError` for a run that goes on or has no tracker, and
    `ProfileError` for what the trackers' own checks find.
    """
    place = folder.absolute()
    read_manifest(place)
    loaded = load_profile(place / PROFILE, sets=sets, switch_on=switch_on, resolved=True)
    chosen = _chosen(loaded, place, only)
    with borrowed(place):
        _check(loaded, chosen, place, say)
        if again:
            for plugin in chosen:
                _forget(place, plugin.source.name)
        options = [*(f"--set={each}" for each in sets), *(f"--with={each}" for each in switch_on)]
        return send_all(place, [plugin.source.name for plugin in chosen], options, seconds, say)


def trackers_of(loaded: LoadedProfile) -> list[Active]:
    """The plugins of a profile that track."""
    return [plugin for plugin in loaded.active if "track" in implemented_hooks(plugin.cls)]


def send_all(folder: Path, names: Sequence[str], options: Sequence[str], seconds: float, say: Say) -> list[Sent]:
    """Have the trackers send what they lack of the run in `folder`, which nobody writes to."""
    (folder / FOLDER).mkdir(exist_ok=True)
    all_of_them = [Beside(folder, name, say, options) for name in names]
    waiting = [tracker for tracker in all_of_them if not tracker.is_done]
    before = {tracker.name: left(folder, tracker.cursor) for tracker in waiting}
    start = time.monotonic()
    send_rest(waiting, seconds, seconds, say)  # one that fails gives up by itself
    return [_sent(folder, tracker, before.get(tracker.name, (0, 0)), start) for tracker in all_of_them]


def _sent(folder: Path, tracker: Beside, before: tuple[int, int], start: float) -> Sent:
    points, events = left(folder, tracker.cursor)
    return Sent(
        name=tracker.name,
        points=before[0] - points,
        events=before[1] - events,
        lacks=tracker.lack(),
        error=tracker.cursor.error,
        seconds=time.monotonic() - start,
    )


def _chosen(loaded: LoadedProfile, folder: Path, only: Sequence[str]) -> list[Active]:
    found = {plugin.source.name: plugin for plugin in trackers_of(loaded)}
    if not found:
        raise RunError(f"{folder} has no tracker; name one that is to get it, such as --with tensorboard")
    unknown = [name for name in only if name not in found]
    if unknown:
        raise ProfileError(f"{unknown[0]} is no tracker of {folder}, which has {', '.join(found)}; see --with")
    return [found[name] for name in only or found]


def _check(loaded: LoadedProfile, chosen: Sequence[Active], folder: Path, say: Say) -> None:
    plugins, _ = build_plugins(chosen, report=say)
    problems = [loaded.source.locate(problem) for problem in plugins.check(watched_run(folder, loaded))]
    if any(problem.severity == "error" for problem in problems):
        raise ProfileError(problems)
    for problem in problems:
        say(printable(str(problem)))


def _forget(folder: Path, name: str) -> None:
    path = cursor_file(folder, name)
    if path.exists():
        write_cursor(path, Cursor())
