"""What looking at a run costs: the live view a step, and `ftcore monitor` on a long run.

The view draws on a terminal that is a string, in CPU time of the process that trains: what every step pays, and what
four drawings a second do. The monitor reads the journal of a run of 100,000 steps that is written here.

Run: python benchmarks/display.py [--steps 100000]
Exit code 1 when the view takes over 1% of 50 ms steps, or the monitor over 5 seconds of CPU time.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ftcore.display import Steady
from ftcore.display.live import BETWEEN, Live
from ftcore.journal.writing import Journal
from ftcore.manifest import new_manifest
from ftcore.values import EventKind, Step

STEP_SECONDS, SHARE, MONITOR_SECONDS = 0.05, 0.01, 5.0
STEPS, DRAWINGS = 5000, 500
METRICS = {
    "loss": 1.5,
    "learning_rate": 1e-4,
    "grad_norm": 1.0,
    "tokens": 2000.0,
    "tokens_seen": 1e6,
    "tokens_per_second": 1e4,
    "seconds": 0.2,
    "data_seconds": 0.01,
    "memory": 3.0,
    "system/cpu": 50.0,
}


def main() -> int:
    """Measure, and compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="of the run that is monitored")
    steps = parser.parse_args().steps
    step, drawing = view_costs()
    share = (step + drawing * min(1.0, STEP_SECONDS / BETWEEN)) / STEP_SECONDS
    print(f"live view: {step * 1e6:.0f} us a step, {drawing * 1e3:.2f} ms a drawing, {share:.2%} of 50 ms steps")
    seconds, mebibytes = monitor_costs(steps)
    print(f"ftcore monitor --once on {steps:,} steps: {seconds:.2f} s of CPU time, {mebibytes:.0f} MiB")
    return int(share > SHARE or seconds > MONITOR_SECONDS)


def view_costs() -> tuple[float, float]:
    """CPU seconds of a step that is not drawn, and of one drawing."""
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    shown = Live(console, clock=lambda: now[0])
    steady = Steady(shown)
    numbers = iter(range(1, STEPS + DRAWINGS + 2))

    def take() -> None:
        number = next(numbers)
        steady.step(Step(number=number, total=STEPS, epoch=0.5, metrics={**METRICS, "loss": 1 / number}))

    def draw() -> None:
        now[0] += BETWEEN
        take()

    draw()
    step = timed(take, STEPS)
    drawing = timed(draw, DRAWINGS) - step
    shown.close()
    return step, drawing


def timed(action: Callable[[], None], count: int) -> float:
    """CPU seconds of one of `count` calls."""
    begun = time.process_time()
    for _ in range(count):
        action()
    return (time.process_time() - begun) / count


def monitor_costs(steps: int) -> tuple[float, float]:
    """CPU seconds and MiB of one picture of a run with so many steps."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        new_manifest("long", {}, []).write(folder)
        with Journal(folder) as journal:
            journal.event(EventKind.STAGE, number=5, total=7, title="training")
            journal.begin(0, steps)
            for number in range(1, steps + 1):
                journal.stepped(number)
                journal.point(number, {**METRICS, "loss": 1 / number, "epoch": number / steps})
        command = [sys.executable, "-m", "ftcore.cli", "monitor", place, "--once"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
