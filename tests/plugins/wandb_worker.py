"""A process that follows a run into Weights & Biases as the engine's does: `python wandb_worker.py FOLDER ORDERS`.

ORDERS is JSON: `options`, `sent` (the step of the follower's cursor), `wait` (for a line on stdin before the end), and
`end`: a state, or `kill`. It gives the tracker what the journal has behind `sent`, and says how that went.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcore.api import EventKind, FtcoreError, Profile, Run, RunState, read_events, read_points
from ftcore_plugins.wandb import Options, WandB

SETTINGS = {"train": {"learning_rate": 0.5}, "data": {"id": "https://me:canary-of-a-login@host/x"}}


def main(folder: Path, orders: dict[str, Any]) -> None:
    plugin = WandB(Options(**orders.get("options", {})))
    sent = orders.get("sent", 0)
    run = Run(name=folder.name, folder=folder, profile=Profile())
    tracker = tried(lambda: plugin.track(run, SETTINGS, sent))
    for event in read_events(folder / "events.jsonl"):
        if event.step >= sent and event.kind != EventKind.ENDED:
            tracker.tell(event)
    tracker.send([point for point in read_points(folder / "metrics.jsonl") if point.step > sent])
    tell("sent")
    if orders.get("wait"):
        sys.stdin.readline()
    if orders["end"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    tried(lambda: tracker.close(RunState(orders["end"]), "a reason"))
    tell("closed")


def tried(call: Callable[[], Any]) -> Any:
    started = time.monotonic()
    try:
        return call()
    except FtcoreError as error:
        tell(f"{error} (after {time.monotonic() - started:.0f} s)")
        os._exit(1)


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
