"""How fast a training step is, next to a bare `transformers.Trainer` with the same model, rows and arguments.

Two processes, one for each trainer, take turns at every single step, so that a change of the machine's
speed hits both, and see the same rows in the same order. The time is CPU time of the process, on one thread;
the first steps are left out. Run: python benchmarks/steady_state.py [--steps 60]
Exit code 1 when the median ratio of any case is under 0.95.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from rich.console import Console
from rich.table import Table

from ftcore.api import (
    MASKED,
    Decision,
    Example,
    Ledger,
    Loaded,
    PreparedData,
    Profile,
    Row,
    Rows,
    Run,
    Step,
    TrainTable,
)

SKIPPED = 5
LIMIT = 0.95
SIZES = {"micro": {}, "small": {"hidden_size": 256, "layers": 4, "intermediate_size": 512, "vocabulary_size": 2048}}
SYLLABLES = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s", "l")]


@attrs.frozen
class Case:
    """One line of the table."""

    size: str
    lora: bool


@attrs.frozen
class Pad:
    """Pads on the right."""

    pad: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """Tensors of shape (rows, tokens)."""
        import torch

        width = max(len(example.input_ids) for example in examples)
        columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for example in examples:
            size = len(example.input_ids)
            columns["input_ids"].append([*example.input_ids, *[self.pad] * (width - size)])
            columns["attention_mask"].append([1] * size + [0] * (width - size))
            columns["labels"].append([*example.labels, *[MASKED] * (width - size)])
        return {name: torch.tensor(rows) for name, rows in columns.items()}


class Clock:
    """Tells the CPU seconds of every step and waits for its turn; as a `Control`, it asks for nothing."""

    def __init__(self, pipe: Connection, steps: int) -> None:
        self._pipe = pipe
        self._left = steps
        self._began = time.process_time()
        self.losses: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        self._pipe.send(time.process_time() - self._began)
        self._left -= 1
        if self._left:
            self._pipe.recv()
        self._began = time.process_time()

    def step_ended(self, step: Step) -> Decision:
        """See `ftcore.api.Control`."""
        self.losses.append(step.metrics["loss"])
        self.tick()
        return Decision()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Never asked for."""

    def checkpoint(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """Never asked for."""
        raise AssertionError(f"nobody asked for a checkpoint of step {step}")


def rows() -> Rows:
    """Rows that are half prompt, half reply, of differing length."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=3)) for _ in range(1500)]
    made = []
    for index in range(256):
        parts = [" ".join(draw.choices(words, k=draw.randint(24, 64))) for _ in range(2)]
        made.append(Row(values={"prompt": parts[0], "reply": parts[1]}, origin=f"row:{index}"))
    return Rows(train=made, validation=[], fingerprint="0")


def prepare(tokenizer: Any, data: Rows) -> PreparedData:
    """Prompt masked, reply trained."""
    examples = []
    for row in data.train:
        prompt, reply = (tokenizer.encode(row.values[key]) for key in ("prompt", "reply"))
        ids = [*prompt, *reply, tokenizer.eos_token_id]
        labels = [MASKED] * len(prompt) + ids[len(prompt) :]
        examples.append(Example(input_ids=ids, labels=labels, replies=(row.values["reply"],), origin=row.origin))
    ledger = Ledger(rows=len(examples), trained=len(examples), held_out=0)
    collate, end = Pad(tokenizer.pad_token_id), tokenizer.eos_token_id
    lengths = [len(example.input_ids) for example in examples]
    return PreparedData(train=examples, validation=[], lengths=lengths, collate=collate, ledger=ledger, end_of_turn=end)


def set_up(case: Case, folder: Path, steps: int) -> tuple[Run, Loaded, PreparedData]:
    """The same model, adapter and rows for either trainer."""
    from ftcore_plugins.lora import Lora
    from ftcore_plugins.lora import Options as LoraOptions
    from ftcore_plugins.tiny_model import Options, TinyModel

    train = TrainTable(max_steps=SKIPPED + steps, batch_size=8, micro_batch_size=4, learning_rate=1e-3)
    run = Run(name="speed", folder=folder, profile=Profile(train=train))
    plugin, data = TinyModel(Options(**SIZES[case.size])), rows()
    tokenizer = plugin.load_processor(run, data)
    loaded = plugin.load_model(run, tokenizer, None)
    if case.lora:
        loaded = Lora(LoraOptions()).adapt(run, loaded)
    return run, loaded, prepare(tokenizer, data)


def train_ours(run: Run, loaded: Loaded, data: PreparedData, clock: Clock) -> float:
    """Mean loss of all steps."""
    from ftcore_plugins.sft import Options, Sft

    Sft(Options(group_steps=1)).make_trainer(run, loaded, data, {}).train(clock, None)
    return statistics.fmean(clock.losses)


def train_bare(run: Run, loaded: Loaded, data: PreparedData, clock: Clock) -> float:
    """Mean loss of all steps."""
    import dataclasses

    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ftcore_plugins.sft import Options
    from ftcore_plugins.sft.arguments import sft_config

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    ours = sft_config(run, len(data.train), Options(group_steps=1), {})
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    names -= {"gradient_checkpointing", "gradient_checkpointing_kwargs"}  # deprecated names of the same thing
    arguments = TrainingArguments(**{name: getattr(ours, name) for name in names})
    trainer = Trainer(
        model=loaded.model, args=arguments, train_dataset=data.train, data_collator=data.collate, callbacks=[Watch()]
    )
    return float(trainer.train().training_loss)


def worker(pipe: Connection, ours: bool) -> None:
    """Train one case after the other, a step a turn; after the last step, tell the mean loss."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        while (order := pipe.recv()) is not None:
            case, steps = order
            made = set_up(case, Path(folder) / case.size, steps)
            pipe.send((train_ours if ours else train_bare)(*made, Clock(pipe, SKIPPED + steps)))


@contextlib.contextmanager
def processes() -> Iterator[list[Connection]]:
    """Our ends of the pipes to the two workers."""
    context = get_context("spawn")
    ends, running = [], []
    for ours in (True, False):
        end, other = context.Pipe()
        running.append(context.Process(target=worker, args=(other, ours), daemon=True))
        running[-1].start()
        ends.append(end)
    yield ends
    for end, process in zip(ends, running, strict=True):
        end.send(None)
        process.join()


def measure(ends: Sequence[Connection], case: Case, steps: int) -> list[tuple[float, float]]:
    """CPU seconds of every measured step: ours, and the bare trainer's on the same rows."""
    times: list[tuple[float, float]] = []
    for turn in range(SKIPPED + steps):
        pair = []
        for end in ends:
            end.send((case, steps) if turn == 0 else None)
            pair.append(end.recv())
        times.append((pair[0], pair[1]))
    losses = [end.recv() for end in ends]
    if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[1]):
        raise SystemExit(f"{case}: not the same training: mean loss {losses[0]} and {losses[1]}")
    return times[SKIPPED:]


def tokens_per_step(case: Case) -> float:
    """Tokens of eight average rows, prompts included."""
    from ftcore_plugins.tiny_model import Options, TinyModel

    data, run = rows(), Run(name="count", folder=Path("nowhere"), profile=Profile())
    prepared = prepare(TinyModel(Options(**SIZES[case.size])).load_processor(run, data), data)
    return statistics.fmean(len(example.input_ids) for example in prepared.train) * 8


def main() -> int:
    """Measure every case, print the table, and judge by the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    table = Table("model", "training", "ours tok/s", "bare Trainer tok/s", "ratio (median)", "quartiles")
    worst = float("inf")
    with processes() as ends:
        for case in [Case(size, lora) for size in SIZES for lora in (True, False)]:
            times, tokens = measure(ends, case, options.steps), tokens_per_step(case)
            low, middle, high = statistics.quantiles([bare / ours for ours, bare in times], n=4)
            worst = min(worst, middle)
            speeds = [f"{tokens / statistics.median(column):,.0f}" for column in zip(*times, strict=True)]
            kind = "LoRA" if case.lora else "full"
            table.add_row(case.size, kind, *speeds, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    return 0 if worst >= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
