"""When a tracker whose run was killed sends the rest, and when it leaves that to another one."""

from __future__ import annotations

import pytest

from ftcore.locks import COMMAND_LOCK, LOCK, locked
from ftcore.tracking import parent
from ftcore.tracking.parent import Parent

NOBODY = -1
LOOKS = 3


@pytest.mark.parametrize(("lock", "end"), [(LOCK, SystemExit), (COMMAND_LOCK, TimeoutError)])
def test_it_leaves_the_rest_to_the_next_worker_once_there_is_one(tmp_path, monkeypatch, lock, end):
    """The command that starts workers again is none itself, and may give up."""
    monkeypatch.setattr(parent, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(parent.faulthandler, "dump_traceback_later", lambda seconds, exit: None)
    looks = []

    def leave(code):
        raise SystemExit(code)

    def look():
        looks.append(None)
        if len(looks) == LOOKS:
            raise TimeoutError

    monkeypatch.setattr(parent.os, "_exit", leave)
    with locked(tmp_path, lock), pytest.raises(end):
        Parent(tmp_path, NOBODY, tick=look)._watch()
