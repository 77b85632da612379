"""When a tracker whose run was killed sends the rest, and when it leaves that to another one."""

from __future__ import annotations

import pytest

from ftcore.locks import COMMAND_LOCK, LOCK, locked
from ftcore.tracking import parent
from ftcore.tracking.parent import Parent

NOBODY = -1
LOOKS = 3


@pytest.fixture
def watching(monkeypatch):
    """Looks some times after a parent that is not there, and calls `look` with how often it has looked."""
    monkeypatch.setattr(parent, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(parent.faulthandler, "dump_traceback_later", lambda seconds, exit: None)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(parent.os, "_exit", leave)

    def watch(folder, look=lambda number: None):
        looks = []

        def tick():
            looks.append(None)
            look(len(looks))
            if len(looks) == LOOKS:
                raise TimeoutError

        Parent(folder, NOBODY, tick=tick)._watch()

    return watch


@pytest.mark.parametrize(("lock", "end"), [(LOCK, SystemExit), (COMMAND_LOCK, TimeoutError)])
def test_it_leaves_the_rest_to_the_next_worker_once_there_is_one(tmp_path, watching, lock, end):
    """The command that starts workers again is none itself, and may give up."""
    with locked(tmp_path, lock), pytest.raises(end):
        watching(tmp_path)


def test_a_lock_that_the_killed_run_holds_for_a_moment_is_no_next_worker(tmp_path, watching):
    held = locked(tmp_path, LOCK)
    held.__enter__()
    with pytest.raises(TimeoutError):
        watching(tmp_path, look=lambda number: held.__exit__(None, None, None) if number == 1 else None)
