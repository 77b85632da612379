"""Why the workers of a run have ended: which one began it, how, and whether another attempt may fare better."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import FtcoreError, PluginError, ProfileError, RunError

PATIENCE = 25.0
"""Seconds after the first failure from which on a killed worker is one that the agent had to kill: it hung."""


@attrs.frozen(kw_only=True)
class Ending:
    """How one worker ended. `exit_code` is negative for a signal; `at` is in seconds since 1970.

    `smaller` is the micro-batch that all may go on with, if memory has run out.
    """

    rank: int
    exit_code: int
    at: float
    message: str = ""
    meant: bool = False
    lost_another: bool = False
    error_code: int = 1
    smaller: int = 0


PARTED = Ending(rank=0, exit_code=1, at=0.0, message="the first machine has left the meeting")
"""What another machine knows when it has started its workers, and none of them has said more."""


def left_in(logs: Path) -> list[Ending]:
    """How the workers of this machine ended, where the agent has not come to tell: the meeting was gone before."""
    found = []
    for path in sorted(logs.rglob("error.json")):
        with suppress(OSError, ValueError, KeyError):  # half written
            data = json.loads(path.read_text("utf-8"))
            found.append(_ending(int(path.parent.name), 1, data["message"]["extraInfo"]["timestamp"], data))
    return found


def ending_of(rank: int, failure: Any) -> Ending:
    """From torch's `ProcessFailure`, and what the worker left in its error file."""
    return _ending(rank, failure.exitcode, failure.timestamp, failure.error_file_data)


def _ending(rank: int, exit_code: int, at: Any, left: Mapping[str, Any]) -> Ending:
    message = left.get("message", "")
    told: Mapping[str, Any] = message if isinstance(message, Mapping) else {"message": message}
    known = told.get("extraInfo", {}).get("ftcore", {})
    return Ending(
        rank=rank,
        exit_code=exit_code,
        at=float(at),
        message=str(told.get("message", "")) if known else "",
        meant=bool(known.get("meant")),
        lost_another=bool(known.get("lost_another")),
        error_code=int(known.get("exit_code", 1)),
        smaller=int(known.get("smaller", 0)),
    )


def known_reason(endings: Sequence[Ending]) -> FtcoreError | None:
    """What a worker has told the user on purpose, the first of them; starting again would not change it."""
    meant = sorted((ending for ending in endings if ending.meant), key=lambda ending: (ending.at, ending.rank))
    if not meant:
        return None
    first = meant[0]
    kinds: Sequence[type[FtcoreError]] = (ProfileError, PluginError)
    kind = next((kind for kind in kinds if kind.exit_code == first.error_code), RunError)
    return kind(first.message)


def what_happened(endings: Sequence[Ending], logs: str) -> str:
    """The death that began it, in words such as `rank 1 was killed by SIGKILL`."""
    first = min(ending.at for ending in endings)
    killed = [ending for ending in endings if ending.exit_code < 0 and ending.exit_code != -signal.SIGTERM]
    hung = [ending for ending in killed if ending.at - first >= PATIENCE]
    died = [ending for ending in killed if ending not in hung]
    crashed = [ending for ending in endings if ending.message and not ending.lost_another]
    silent = [ending for ending in endings if not ending.message and ending.exit_code > 0]
    if died:
        return f"rank {died[0].rank} was killed by {_name(died[0].exit_code)}"
    if crashed:
        return f"rank {crashed[0].rank} has failed: {crashed[0].message}"
    if hung:
        return f"rank {hung[0].rank} gave no sign of life within hardware.heartbeat and was killed"
    if silent:
        return f"rank {silent[0].rank} ended with exit code {silent[0].exit_code}; {logs} may say why"
    return f"rank {endings[0].rank} lost the connection to the others"


def _name(exit_code: int) -> str:
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
