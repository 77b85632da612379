"""A tracker without a server: it writes what it is given to a file, and fails in every way that a tracker can.

`fault` is `PLACE=KIND`, such as `send=raises`, or `send=raises/3` for one call in three, drawn by chance. The same in
the file `PATH.fault` comes and goes while the run does.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Event, Point, Problem, Run, RunState, hookimpl, option

AN_HOUR = 3600


def _fill_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    held = []
    while True:
        held.append(bytearray(2**26))


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _raise() -> None:
    raise ConnectionError(f"no way to https://me:hunter22@server with {os.environ.get('LIGHT_API_KEY', '')}")


FAULTS: Mapping[str, Callable[[], Any]] = {
    "raises": _raise,
    "blocks": lambda: time.sleep(AN_HOUR),
    "holds": lambda: ctypes.PyDLL(None).sleep(AN_HOUR),  # no other thread of the process runs
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(0),
    "leaves": lambda: sys.exit(0),
    "interrupts": lambda: signal.raise_signal(signal.SIGINT),
    "memory": _fill_memory,
    "disk": _fill_disk,
    "thread": lambda: threading.Thread(target=time.sleep, args=[AN_HOUR]).start(),
    "talks": lambda: sys.stdout.write("x" * 1_000_000),
}


@attrs.frozen(kw_only=True)
class TrackerConfig:
    path: Path = option(Path("tracked.jsonl"), help="where it writes what it is given")
    fault: str = option("", help="such as send=raises")
    problem: str = option("", help="what its check finds")


class LightTracker:
    """Asked to track, it writes a line for each call."""

    Config = TrackerConfig

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config

    @hookimpl
    def check(self) -> list[Problem]:
        found = self.config.problem
        return [Problem(key="plugin.light_tracker", message=found)] if found else []

    @hookimpl
    def track(self, run: Run, settings: Mapping[str, Any], sent: int) -> Writer:
        writer = Writer(self.config)
        logging.getLogger("ftcore.plugins.light_tracker").info("see %s", self.config.path.name)
        logging.getLogger("ftcore.plugins.light_tracker").warning("it is light")
        writer.note(
            "track",
            run=run.name,
            seed=settings["run"]["seed"],
            resumed=run.resumed,
            sent=sent,
            folder=str(run.folder),
            process=os.getpid(),
            heavy=[name for name in ("torch", "numpy", "transformers") if name in sys.modules],
        )
        return writer


@attrs.frozen
class Writer:
    config: TrackerConfig

    def send(self, points: Sequence[Point]) -> None:
        self.note("send", steps=[point.step for point in points], points=[dict(each.metrics) for each in points])

    def tell(self, event: Event) -> None:
        self.note("tell", event=event.kind, step=event.step, values=dict(event.values))

    def close(self, state: RunState, reason: str) -> None:
        self.note("close", state=state, reason=reason)

    def note(self, place: str, **values: Any) -> None:
        self._fail(place)
        with self.config.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": place, **values}) + "\n")

    def _fail(self, place: str) -> None:
        passing = self.config.path.with_suffix(".fault")
        wanted = passing.read_text("utf-8").strip() if passing.exists() else self.config.fault
        where, _, kind = wanted.partition("=")
        kind, _, calls = kind.partition("/")
        if where in (place, "all") and not random.randrange(int(calls or 1)):
            self.config.path.with_suffix(".hit").touch()
            FAULTS[kind]()
