"""How many tokens packing wastes on the code set, how many padding wastes without it, and what either does to speed.

The rows are functions of the standard library and of all installed packages, as `[plugin.python_functions]` finds
them, in the tokens of a byte-level BPE that is trained on them. The trainings take turns in one process: a few steps
of each, again and again, so that a change of the machine's speed hits all; the time is CPU time, on one thread.
Run: python benchmarks/packing.py [--rows 18000] [--rounds 5] [--steps 12]
Exit code 1 when packing to `train.max_length` 2048 wastes over 2%.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from rich.console import Console
from rich.table import Table

from ftcore.api import Decision, Loaded, PreparedData, Rows, Run, Step
from ftcore.testing import formatted, make_run
from ftcore_plugins.llama_code import LlamaCode
from ftcore_plugins.llama_code import Options as CodeOptions
from ftcore_plugins.python_functions import Options as FunctionOptions
from ftcore_plugins.python_functions import PythonFunctions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.sft.order import StepOrder
from ftcore_plugins.sft.packing import best_fit
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel

LIMIT = 0.02
CAPACITIES = (512, 1024, 2048, 4096)
PACKED, MICRO, ROWS = 1024, 8, 16
MODEL = TinyOptions(
    vocabulary_size=4096, hidden_size=256, layers=4, heads=8, kv_heads=4, intermediate_size=768, positions=4096
)


@attrs.frozen(kw_only=True)
class Set:
    """The code set, tokenized, and what makes a model for it."""

    folder: Path
    plugin: TinyModel
    tokenizer: Any
    data: PreparedData

    def load(self, run: Run) -> Loaded:
        """The same weights each time."""
        return self.plugin.load_model(run, self.tokenizer, None)

    def up_to(self, tokens: int) -> PreparedData:
        """Without longer rows."""
        data = self.data
        kept = [place for place, length in enumerate(data.lengths) if length <= tokens]
        return attrs.evolve(data, train=[data.train[i] for i in kept], lengths=[data.lengths[i] for i in kept])


def prepare(folder: Path, limit: int) -> Set:
    """Find functions and tokenize them."""
    run = make_run(folder, train={"max_length": CAPACITIES[-1]}, data={"validation": 0})
    rows = PythonFunctions(FunctionOptions(packages=("*",), limit=limit)).load_rows(run)
    plugin = TinyModel(MODEL)
    tokenizer = plugin.load_processor(run, Rows(train=rows, validation=[], fingerprint=""))
    format_ = LlamaCode(CodeOptions()).format_dataset(run, tokenizer)
    return Set(folder=folder, plugin=plugin, tokenizer=tokenizer, data=formatted(run, format_, rows))


def padding(lengths: np.ndarray[Any, Any], grouped: int) -> float:
    """Share of padding in all micro-batches of one epoch."""
    ordered = lengths[list(StepOrder(lengths, MICRO, seed=0, grouped=grouped))]
    batches = ordered[: len(ordered) // MICRO * MICRO].reshape(-1, MICRO)
    return float(1 - batches.sum() / (batches.max(axis=1) * MICRO).sum())


def waste(lengths: np.ndarray[Any, Any]) -> tuple[Table, float]:
    """A line for each `train.max_length`, and the share that is wasted at 2048."""
    table = Table("train.max_length", "rows", "tokens", "sequences", "wasted", "CPU seconds to pack")
    found = {}
    for capacity in CAPACITIES:
        kept = lengths[lengths <= capacity]
        began = time.process_time()
        bins = len(best_fit(kept, capacity, seed=0).lengths)
        seconds = time.process_time() - began
        found[capacity] = float(1 - kept.sum() / (bins * capacity))
        table.add_row(f"{capacity}", *(f"{count:,}" for count in (len(kept), kept.sum(), bins)),
                      f"{found[capacity]:.2%}", f"{seconds:.3f}")  # fmt: skip
    return table, found[2048]


@attrs.define
class Clock:
    """As a `Control`, it asks for nothing; it keeps trained tokens and CPU seconds of each step."""

    tokens: list[float] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.api.Control`."""
        self.times.append(time.process_time())
        self.tokens.append(step.metrics["tokens"])
        return Decision()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Never asked for."""

    def checkpoint(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """Never asked for."""
        raise AssertionError(f"nobody asked for a checkpoint of step {step}")

    @property
    def speed(self) -> float:
        """Trained tokens a second."""
        return sum(self.tokens[1:]) / (self.times[-1] - self.times[0])


def speed(made: Set, data: PreparedData, run: Run, options: Options) -> float:
    """Trained tokens a CPU second of a few steps; prompts and padding take time, but do not count."""
    clock = Clock()
    with contextlib.redirect_stdout(None):
        Sft(options).make_trainer(run, made.load(run), data, {}).train(clock, None)
    return clock.speed


def speeds(made: Set, rounds: int, steps: int) -> Table:
    """A line for each way to make batches, of about as many tokens each."""
    data = made.up_to(PACKED)
    bins = max(1, round(ROWS * statistics.fmean(data.lengths) / PACKED))
    padded = {"batch_size": ROWS, "micro_batch_size": MICRO}
    ways: dict[str, tuple[dict[str, Any], Options]] = {
        "rows at random": (padded, Options(group_steps=1)),
        "grouped by length": (padded, Options()),
        "packed": ({"batch_size": bins, "micro_batch_size": 1, "packing": True}, Options()),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, (batches, options) in ways.items():
            train = {**batches, "max_steps": steps + 1, "max_length": PACKED}
            run = make_run(made.folder, train=train, run={"seed": turn}, hardware={"device": "cpu"})
            found[name].append(speed(made, data, run, options))
    table = Table("batches", "trained tokens a second", "in those of rows at random (median)")
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, found["rows at random"], strict=True))
        table.add_row(name, f"{statistics.median(values):,.0f}", f"{ratio:.2f}")
    return table


def main() -> int:
    """Measure, print, and judge by the waste."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=18_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        made = prepare(Path(name), options.rows)
        lengths = np.asarray(made.data.lengths)
        table, wasted = waste(lengths)
        console.print(table)
        shares = f"{padding(lengths, 1):.1%} at random, {padding(lengths, Options().group_steps):.1%} grouped by length"
        console.print(f"padding in batches of {MICRO}: {shares}\n")
        if options.rounds:
            console.print(speeds(made, options.rounds, options.steps))
    return 0 if wasted <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
