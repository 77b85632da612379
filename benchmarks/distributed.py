"""How far two processes are from one that trains on the same global batch, by each strategy, in float32 on CPUs.

One process trains the tiny model, LoRA and full; then two do, by DDP, FSDP2, ZeRO-2 and ZeRO-3, over gloo. The table
has the largest difference of a step's loss, of the held-out loss and of any saved weight. The rows do not come out
even, so that the short step at an epoch's end is among them. Run: python benchmarks/distributed.py [--steps 20]
Exit code 1 when a difference is over 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from rich.console import Console
from rich.table import Table
from steady_state import prepare, rows

from ftcore.api import Decision, HardwareTable, Loaded, Profile, Run, Step, TrainTable, World

GOAL = 1e-5
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
ROWS, HELD_OUT = 60, 12
"""Steps are of 8 rows: 60 leave a last one of 4."""


class Losses:
    """A `Control` that keeps the losses and asks for nothing."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.api.Control`."""
        self.seen.append(step.metrics["loss"])
        return Decision()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Never asked for."""

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """Never asked for."""
        raise AssertionError(f"nobody asked for a checkpoint of step {step}")


def plugin_of(strategy: str) -> Any:
    """DDP needs none."""
    if strategy == "fsdp":
        from ftcore_plugins.fsdp import Fsdp, Options

        return Fsdp(Options())
    if strategy.startswith("zero"):
        from ftcore_plugins import deepspeed_zero

        kind = {"zero2": deepspeed_zero.Zero2, "zero3": deepspeed_zero.Zero3}[strategy]
        return kind(kind.Config())
    return None


def load(run: Run, plugin: Any, tokenizer: Any) -> Loaded:
    """The tiny model, loaded within the strategy's wrapper."""
    from ftcore_plugins.tiny_model import Options, TinyModel

    around: Iterator[None] = iter(()) if plugin is None else plugin.load_model(run, None)
    next(around, None)
    return TinyModel(Options()).load_model(run, tokenizer, None)


def train(folder: Path, strategy: str, lora: bool, steps: int) -> None:
    """Train one case and leave its losses beside what it saved. The base model lies in `folder` from the second on."""
    from ftcore_plugins.lora import Lora
    from ftcore_plugins.lora import Options as LoraOptions
    from ftcore_plugins.sft import Options, Sft
    from ftcore_plugins.tiny_model import Options as TinyOptions
    from ftcore_plugins.tiny_model import TinyModel

    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    table = TrainTable(max_steps=steps, batch_size=8, micro_batch_size=2, learning_rate=1e-3, precision="fp32")
    profile = Profile(train=table, hardware=HardwareTable(device="cpu"))
    world = World(rank=rank, size=size, local_rank=rank, local_size=size)
    run, data, plugin = Run(name="equal", folder=folder, profile=profile, world=world), rows(), plugin_of(strategy)
    tokenizer = TinyModel(TinyOptions()).load_processor(run, data)
    loaded = load(run, plugin, tokenizer)
    loaded = Lora(LoraOptions()).adapt(run, loaded) if lora else loaded
    prepared = prepare(tokenizer, data)
    examples = prepared.train[: ROWS + HELD_OUT]
    lengths = [len(example.input_ids) for example in examples[:ROWS]]
    prepared = attrs.evolve(prepared, train=examples[:ROWS], validation=examples[ROWS:], lengths=lengths)
    args = {} if plugin is None else plugin.training_args(run)
    trainer, losses = Sft(Options()).make_trainer(run, loaded, prepared, args), Losses()
    trainer.train(losses, None)
    held_out, name = trainer.evaluate()["eval_loss"], f"{strategy}-{'lora' if lora else 'full'}"
    trainer.save(folder / name)
    if world.is_main:
        (folder / f"{name}.json").write_text(json.dumps({"losses": losses.seen, "held_out": held_out}), "utf-8")


def worker(folder: Path, strategies: list[str], steps: int) -> None:
    """One process: every case in turn."""
    import torch

    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for strategy in strategies:
        for lora in (True, False):
            train(folder, strategy, lora, steps)


def launch(folder: Path, strategies: tuple[str, ...], processes: int, steps: int) -> None:
    """Start the processes and wait for them."""
    distributed = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(distributed if processes > 1 else []), __file__, "--steps", str(steps)]
    done = subprocess.run([*command, "--worker", str(folder), *strategies], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])


def differences(folder: Path, strategy: str, kind: str) -> list[float]:
    """The largest of the steps' losses, of the held-out loss, and of the saved weights."""
    from safetensors.torch import load_file

    one, two = (json.loads((folder / f"{who}-{kind}.json").read_text("utf-8")) for who in ("one", strategy))
    loss = max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    alone, shared = (load_file(folder / f"{who}-{kind}" / file) for who in ("one", strategy))
    if alone.keys() != shared.keys():
        raise SystemExit(f"{strategy}: other weights were saved")
    weight = max(float((alone[name] - shared[name]).abs().max()) for name in alone)
    return [loss, abs(one["held_out"] - two["held_out"]), weight]


def main() -> int:
    """Train, compare, print the table, and judge by the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(Path(options.worker[0]), options.worker[1:], options.steps)
        return 0
    table = Table("strategy", "training", "loss of a step", "held-out loss", "saved weight", f"goal {GOAL:g}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        launch(Path(place), ("one",), 1, options.steps)
        launch(Path(place), STRATEGIES, 2, options.steps)
        for strategy in STRATEGIES:
            for kind in ("lora", "full"):
                found = differences(Path(place), strategy, kind)
                worst = max(worst, *found)
                verdict = "reached" if max(found) <= GOAL else "MISSED"
                table.add_row(strategy, kind, *(f"{each:.1e}" for each in found), verdict)
    Console().print(table)
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
