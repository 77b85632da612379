"""False alarms and detections of the `health` plugin, and what it costs a step.

    python benchmarks/health.py               # simulated runs only, half a minute
    python benchmarks/health.py --real        # also trains the tiny model at several rates: some minutes

Healthy runs are of seven kinds (`HEALTHY`); faulty ones are healthy runs into which a fault of the sign's kind is
put (`FAULTS`), at a random place and of a random size. Exit code 1 if there are false alarms in over 1% of the healthy
runs, if under 90% of a sign's faults are detected, or if a step costs over 200 microseconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs
from health_curves import FAULTS, HEALTHY, Curve, healthy, long
from rich.console import Console
from rich.table import Table

from ftcore.api import Notice, Profile, Run, Step, TrainTable
from ftcore.hardware.gauges import SECONDS, Host
from ftcore.hardware.nvml import visible_gpus
from ftcore.journal.events import read_events
from ftcore_plugins.health import Health, Options

FALSE_ALARMS, DETECTED, MICROSECONDS = 0.01, 0.9, 200.0
SAMPLE = 10
"""Steps between two samples of the machine, in a long run."""


@attrs.define
class Played:
    """What the plugin made of a run."""

    notices: list[tuple[int, Notice]]
    steps: int
    seconds: float

    @property
    def signs(self) -> set[str]:
        """What was told at all."""
        return {notice.sign for _, notice in self.notices}


def play(curve: Curve, folder: Path) -> Played:
    """Give a curve to the plugin, step by step."""
    run = Run(name="simulated", folder=folder, profile=Profile(train=TrainTable(max_steps=curve.steps)))
    plugin, played = Health(Options()), Played(notices=[], steps=curve.steps, seconds=0.0)
    for number in range(1, curve.steps + 1):
        step = step_of(curve, number)
        start = time.thread_time()
        told = plugin.on_step(run, step)
        if number in curve.held_out:
            told = [*told, *plugin.on_evaluation(number, {"eval_loss": curve.held_out[number]})]
        played.seconds += time.thread_time() - start
        played.notices += [(number, notice) for notice in told]
    return played


def step_of(curve: Curve, number: int) -> Step:
    """One of them, as an observer gets it."""
    place = number - 1
    metrics = {
        "loss": curve.loss[place],
        "grad_norm": curve.norm[place],
        "learning_rate": curve.rate[place],
        "seconds": curve.seconds[place],
        "data_seconds": curve.waited[place],
        "tokens": curve.tokens[place],
    }
    if place % (SAMPLE if curve.steps >= 1000 else 5) == 0:
        metrics["system/process_memory"] = curve.memory[place]
        metrics["system/gpu0/utilization"] = curve.use[place]
        metrics["system/gpu0/temperature"] = 70.0
    return Step(number=number, total=curve.steps, epoch=curve.epochs * number / curve.steps, metrics=metrics)


def sample_cost() -> float:
    """Median milliseconds of one sample of `system/...`, with the cards of this machine if there are some."""
    host, cards, times = Host(), visible_gpus(), []
    for _ in range(50):
        start = time.perf_counter()
        for source in (host, *cards):
            dict(source.figures())
        times.append(time.perf_counter() - start)
        time.sleep(0.01)
    return statistics.median(times) * 1000


# Real runs

RATES = {"good": (3e-3, 1e-2, 2e-2), "low": (1e-3,), "too high": (1.0, 5.0), "too low": (1e-9, 1e-8)}
PROFILE = """
[hardware]
profile = "cpu"
threads = 1
[data]
validation = 0.1
[train]
learning_rate = {rate}
max_steps = {steps}
batch_size = 8
max_length = 256
eval_steps = 30
eval_samples = 0
save_steps = 0
[run]
name = "real"
output_dir = "{folder}"
seed = {seed}
samples = 0
[plugin.python_functions]
limit = 400
max_lines = 12
[plugin.tiny_model]
vocabulary_size = 512
[plugin.llama_code]
[plugin.lora]
modules_to_save = ["embed_tokens", "lm_head"]
"""


def real(folder: Path, kind: str, rate: float, seed: int, steps: int) -> tuple[set[str], str]:
    """The signs of a run of the tiny model, and how it ended."""
    from ftcore.engine import run
    from ftcore.errors import RunError
    from ftcore.preflight import load_profile

    text = PROFILE.format(rate=rate, seed=seed, steps=steps, folder=folder)
    path = folder / f"{kind.replace(' ', '-')}-{rate:g}-{seed}.toml"
    path.write_text(text, "utf-8")
    loaded = load_profile(path, sets=[f"run.name={path.stem}"])
    try:
        run(loaded)
        end = "finished"
    except RunError as error:
        end = str(error)[:60]
    [made] = folder.glob(f"{path.stem}-2*")
    return {str(event.values["sign"]) for event in read_events(made / "events.jsonl") if event.kind == "notice"}, end


def simulated(count: int, faulty: int, first: int, folder: Path, console: Console) -> bool:
    """Play all simulated runs, and print what was told."""
    alarms: Counter[str] = Counter()
    runs, seconds, steps = 0, 0.0, 0
    for kind in HEALTHY:
        for seed in range(count):
            played = play(healthy(random.Random(f"{first} {kind} {seed}"), kind), folder)
            alarms.update(f"{kind}: {sign}" for sign in played.signs)
            runs, seconds, steps = runs + 1, seconds + played.seconds, steps + played.steps
    table = Table("sign", "detected", "of", "other signs")
    worst = 1.0
    for sign, fault in FAULTS.items():
        found, others = 0, Counter[str]()
        for seed in range(faulty):
            curve = long(random.Random(f"{first} {sign} {seed}"))
            fault(curve)
            told = play(curve, folder).signs
            found += sign in told
            others.update(told - {sign})
        worst = min(worst, found / faulty)
        table.add_row(sign, str(found), str(faulty), ", ".join(f"{name} {n}" for name, n in others.most_common()))
    console.print(table)
    console.print(f"false alarms: {alarms.total()} in {runs} healthy runs of {steps:,} steps {dict(alarms) or ''}")
    cost = seconds / steps * 1e6
    console.print(f"cost: {cost:.1f} microseconds a step")
    console.print(f"a sample of the machine: {sample_cost():.2f} milliseconds, every {SECONDS:g} seconds")
    return alarms.total() <= FALSE_ALARMS * runs and worst >= DETECTED and cost <= MICROSECONDS


def trained(folder: Path, seeds: Sequence[int], steps: int, console: Console) -> None:
    """Train the tiny model at several rates, and print what was told."""
    table = Table("rate", "seed", "end", "signs")
    for kind, rates in RATES.items():
        for rate in rates:
            for seed in seeds:
                signs, end = real(folder, kind, rate, seed, steps)
                table.add_row(f"{rate:g} ({kind})", str(seed), end, ", ".join(sorted(signs)) or "none")
    console.print(table)


def main() -> int:
    """Play the runs, print the tables, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="healthy runs of each kind")
    parser.add_argument("--faulty", type=int, default=40, help="faulty runs of each sign")
    parser.add_argument("--seed", type=int, default=0, help="which random runs; 0 and 1 have set thresholds")
    parser.add_argument("--real", action="store_true", help="train the tiny model as well")
    parser.add_argument("--seeds", type=int, default=2, help="real runs at each rate")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        good = simulated(options.count, options.faulty, options.seed, Path(folder), console)
        if options.real:
            trained(Path(folder), range(options.seeds), options.steps, console)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
