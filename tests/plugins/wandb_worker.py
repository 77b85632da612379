"""A process that follows a run into Weights & Biases as the engine's does: `python wandb_worker.py FOLDER ORDERS`.

ORDERS is JSON: `options`, `sent`, `pause` (seconds before the end), and `end`: a state, `kill`, or empty to leave
as it is. It sends the points of the journal after `sent`, tells its events, and prints how it went.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from ftcore.api import EventKind, Profile, Run, RunState, read_events, read_points
from ftcore_plugins.wandb import Options, WandB


def main(folder: Path, orders: dict[str, object]) -> None:
    plugin = WandB(Options(**orders.get("options", {})))  # type: ignore[arg-type]
    sent = int(orders.get("sent", 0))  # type: ignore[call-overload]
    run = Run(name=folder.name, folder=folder, profile=Profile())
    tracker = plugin.track(run, {"train": {"learning_rate": 0.5}, "data": {"id": "https://me:secret@host/x"}}, sent)
    for event in read_events(folder / "events.jsonl"):
        if event.step >= sent and event.kind != EventKind.ENDED:
            tracker.tell(event)
    tracker.send([point for point in read_points(folder / "metrics.jsonl") if point.step > sent])
    tell("sent")
    if orders.get("wait"):
        sys.stdin.readline()
    if orders.get("end") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        tracker.close(RunState(str(orders["end"])), "a reason")
        tell("closed")
    except Exception as error:
        tell(f"{error} after {time.monotonic() - started:.1f} s")
        os._exit(1)


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
