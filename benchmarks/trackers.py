"""What trackers cost a step, and what their faults do to a run.

The cost: one run with three trackers, whose processes are stopped (SIGSTOP) and woken again every few steps. Blocks
with and without them lie side by side, so that a change of the machine's speed hits both; the median of the ratios of
neighbours is told, with an interval by bootstrap, and the CPU time of each tracker.
The faults: light runs, without torch, beside a tracker that fails in every way in every place. Each must finish, with
every step in metrics.jsonl, and `ftcore sync` must send all of it afterwards.

Run: python benchmarks/trackers.py [--only cost|faults] [--trackers NAME,...] [--pairs 30]
Exit code 1 when a typical step takes over 1.01 times as long, or surely all of them together, a point is missing, or a
run was ended.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="offline")

import psutil
from light_runs import LIGHT, install, write_desk

from ftcore import engine
from ftcore.control import RunControl
from ftcore.journal.metrics import read_metrics
from ftcore.preflight import load_profile
from ftcore.tracking.cursor import cursor_file, read_cursor
from ftcore.tracking.starting import Beside
from ftcore.tracking.sync import sync
from ftcore.values import Decision, RunState, Step

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 1.01
BLOCK = 220
"""Steps; at 50 ms each, every tracker sends about once in it."""
DRAWS = 2000

COST_PROFILE = """\
[run]
name = "cost"
samples = 0

[hardware]
profile = "cpu"
threads = 1

[data]
validation = 0

[train]
learning_rate = 1e-3
max_steps = {steps}
batch_size = {batch}
max_length = 128
save_steps = 0

[plugin.python_functions]
limit = 400
max_lines = 20

[plugin.tiny_model]
vocabulary_size = 512

[plugin.llama_code]
"""


class Paired:
    """Puts the trackers to sleep and wakes them, a block of steps each, and keeps the seconds of every step."""

    def __init__(self, pairs: int, names: list[str]) -> None:
        self.seconds: list[tuple[int, bool, float]] = []
        self.cpu: dict[str, float] = {}
        self.starting: dict[str, float] = {}
        self.steps = 0
        self._names = names
        self._left = 2 * pairs * BLOCK
        self._awake = True
        self._last = time.perf_counter()
        self._processes: dict[str, psutil.Process] = {}
        self._wakings = iter(waking(pairs))

    def ready(self, run: Path) -> bool:
        """Whether every tracker has sent something: what it imports, and its log-in, are no part of a step."""
        if not self._processes and all(read_cursor(cursor_file(run, name)).sent for name in self._names):
            here = psutil.Process().children()
            self._processes = {name: next(each for each in here if name in each.cmdline()) for name in self._names}
            self.starting = {name: cpu_of(process) for name, process in self._processes.items()}
        return bool(self._processes)

    def step(self) -> bool:
        """A step has ended; tells whether there are enough."""
        now = time.perf_counter()
        done = len(self.seconds)
        self.seconds.append((done // BLOCK, self._awake, now - self._last))
        if (done + 1) % BLOCK == 0:
            self._awake = next(self._wakings, True)
            for process in self._processes.values():
                for each in [process, *process.children(recursive=True)]:
                    each.send_signal(signal.SIGCONT if self._awake else signal.SIGSTOP)
        self._last = time.perf_counter()
        return done + 1 >= self._left

    def end(self) -> None:
        """Wake them, and count what they have used."""
        for name, process in self._processes.items():
            for each in [process, *process.children(recursive=True)]:
                each.send_signal(signal.SIGCONT)
            self.cpu[name] = cpu_of(process) - self.starting[name]

    @property
    def is_awake(self) -> bool:
        """Whether this block has trackers."""
        return self._awake

    def begin(self) -> None:
        """The first block begins."""
        self._awake = next(self._wakings)
        self._last = time.perf_counter()


def waking(pairs: int) -> Iterator[bool]:
    """With and without, the order drawn for each pair: a period of the machine must not fall in with ours."""
    draw = random.Random(1)
    for _ in range(pairs):
        first = draw.random() < 0.5
        yield first
        yield not first


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process and of those that it started."""
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


@contextmanager
def watched(paired: Paired) -> Iterator[None]:
    """Every step of the run goes through `paired`; what looks after the trackers sleeps when they do."""
    real_step, real_look = RunControl.step_ended, Beside.look

    def step_ended(control: RunControl, step: Step) -> Decision:
        decision = real_step(control, step)
        paired.steps += 1
        if not paired.seconds and not paired.starting:
            if paired.ready(control.run.folder):
                paired.begin()
            return decision
        if not paired.cpu and paired.step():
            paired.end()
            control.stop_reason = "measured"
            return Decision(evaluate=False, checkpoint=False, stop=True)
        return decision

    def look(beside: Beside) -> None:
        if paired.is_awake:
            real_look(beside)

    RunControl.step_ended, Beside.look = step_ended, look  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunControl.step_ended, Beside.look = real_step, real_look  # type: ignore[method-assign]


def cost(names: list[str], pairs: int, batch: int) -> bool:
    """Measure and print; whether it is within the limit."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        tables = "".join(f"\n[plugin.{name}]\n" for name in names)
        Path("cost.toml").write_text(COST_PROFILE.format(steps=100_000, batch=batch) + tables, "utf-8")
        paired = Paired(pairs, names)
        with watched(paired):
            outcome = engine.run(load_profile("cost.toml"))
        points = [line["step"] for line in read_metrics(outcome.folder / "metrics.jsonl") if "loss" in line]
        behind = [name for name in names if read_cursor(cursor_file(outcome.folder, name)).closed != outcome.state]
    step = statistics.median(seconds for _, _, seconds in paired.seconds)
    print(
        f"median step {1000 * step:.1f} ms; with {', '.join(names)}, in that without ({pairs} pairs of {BLOCK} steps):"
    )
    whole, typical = ratios_of(paired, sum), ratios_of(paired, statistics.median)
    for title, ratios in (("all of the time", whole), ("the typical step", typical)):
        low, high = interval(ratios)
        print(f"  {title:<17} {statistics.median(ratios):.4f} (90%: {low:.4f} to {high:.4f})")
    awake = sum(seconds for _, awake, seconds in paired.seconds if awake)
    for name, used in paired.cpu.items():
        print(f"  {name}: {paired.starting[name]:.1f} CPU seconds to start, then {100 * used / awake:.2f}% of one core")
    print(f"  points in metrics.jsonl: {len(points)} of {paired.steps}; not closed: {', '.join(behind) or 'none'}")
    return interval(whole)[0] <= LIMIT and statistics.median(typical) <= LIMIT and len(points) == paired.steps


def ratios_of(paired: Paired, of: Callable[[Iterable[float]], float]) -> list[float]:
    """`of` the seconds of each block with trackers in that of its neighbour without."""
    blocks: dict[int, tuple[bool, list[float]]] = {}
    for block, awake, seconds in paired.seconds:
        blocks.setdefault(block, (awake, []))[1].append(seconds)
    ratios = []
    for block in range(0, len(blocks) - 1, 2):
        by_state = {awake: of(steps) for awake, steps in (blocks[block], blocks[block + 1])}
        ratios.append(by_state[True] / by_state[False])
    return ratios


def interval(ratios: list[float]) -> tuple[float, float]:
    """Of the median, by bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return medians[DRAWS // 20], medians[-DRAWS // 20]


def faults() -> bool:
    """Run beside every fault in every place; whether none has reached a run."""
    sys.path.insert(0, str(LIGHT))
    from light_trackers import FAULTS

    ended = lost = unsent = count = 0
    for place in ("track", "send", "tell", "close"):
        for kind in FAULTS:
            with tempfile.TemporaryDirectory() as folder:
                result = one_fault(Path(folder), place, kind)
            count += 1
            ended += not result["finished"]
            lost += 10 - result["points"]
            unsent += result["unsent"]
            print(
                f"  {place + '=' + kind:<18} run {result['seconds']:5.1f} s, sync {result['synced']:4.1f} s", flush=True
            )
    print(f"{count} faults: runs ended {ended}, points missing {lost}, trackers that sync left behind {unsent}")
    return not (ended or lost or unsent)


def one_fault(folder: Path, place: str, kind: str) -> Mapping[str, Any]:
    """One light run beside one fault, then the fault is mended and the rest is sent."""
    os.chdir(folder)
    install(folder, ["tracked"])
    write_desk(folder, {"tracked": f"{place}={kind}"}, steps=10, save_steps=5)
    start = time.monotonic()
    outcome = engine.run(load_profile("light.toml"))
    seconds = time.monotonic() - start
    steps = [line["step"] for line in read_metrics(outcome.folder / "metrics.jsonl") if "loss" in line]
    Path("tracked.fault").write_text("", "utf-8")
    start = time.monotonic()
    (sent,) = sync(outcome.folder, say=unheard)
    tracked = [json.loads(line) for line in Path("tracked.jsonl").read_text("utf-8").splitlines()]
    given = {step for line in tracked if line["what"] == "send" for step in line["steps"]}
    return {
        "finished": outcome.state is RunState.FINISHED,
        "points": len(steps),
        "unsent": bool(sent.lacks) or given != set(range(1, 11)) or tracked[-1]["what"] != "close",
        "seconds": seconds,
        "synced": time.monotonic() - start,
    }


def unheard(text: str) -> None:
    """What a user would read."""
    del text


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("cost", "faults"))
    parser.add_argument("--trackers", default="tensorboard,mlflow,wandb")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8, help="rows a step; 50 ms are wanted")
    parsed = parser.parse_args()
    good = True
    if parsed.only != "faults":
        good = cost(parsed.trackers.split(","), parsed.pairs, parsed.batch)
    if parsed.only != "cost":
        good = faults() and good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
