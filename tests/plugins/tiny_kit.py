"""A tiny model, its data and a control that keeps what it is told, for the tests of the trainer and the exports."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import (
    MASKED,
    DataTable,
    Decision,
    Example,
    HardwareTable,
    Ledger,
    Loaded,
    ModelTable,
    PreparedData,
    Profile,
    Row,
    Rows,
    Run,
    RunTable,
    Step,
    TrainTable,
)
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel

SHORT = {
    "max_steps": 3,
    "batch_size": 8,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "scheduler": "constant",
    "warmup": 0.0,
}
COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown"]


def make_rows(count: int = 21, held_out: int = 5) -> Rows:
    """Questions of differing length with short replies; every origin is `rows.jsonl:N`."""
    rows = [
        Row(
            values={
                "messages": [
                    {"role": "user", "content": " ".join([f"which colour has number {i}", *COLOURS[: i % 7]])},
                    {"role": "assistant", "content": f"{COLOURS[i % 8]} {COLOURS[(i * 3) % 8]}"},
                ]
            },
            origin=f"rows.jsonl:{i + 1}",
        )
        for i in range(count + held_out)
    ]
    return Rows(train=rows[:count], validation=rows[count:], fingerprint="f" * 64)


def make_run(folder: Path, **tables: Any) -> Run:
    """A run with overridden tables, such as `train={"max_steps": 4}`."""
    known = {
        "run": RunTable,
        "hardware": HardwareTable,
        "model": ModelTable,
        "data": DataTable,
        "train": TrainTable,
    }
    profile = Profile(**{name: known[name](**values) for name, values in tables.items()})
    return Run(name="tiny", folder=folder, profile=profile)


def to_example(tokenizer: Any, row: Row) -> Example:
    made = tokenizer.apply_chat_template(row.values["messages"], return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = made["input_ids"], made["assistant_masks"]
    labels = [token if trained else MASKED for token, trained in zip(ids, mask, strict=True)]
    replies = tuple(message["content"] for message in row.values["messages"] if message["role"] == "assistant")
    return Example(input_ids=ids, labels=labels, replies=replies, origin=row.origin)


@attrs.frozen
class PadRight:
    """Pads a batch on the right; labels are `MASKED` there."""

    pad: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        import torch

        width = max(len(example.input_ids) for example in examples)
        fill = {"input_ids": self.pad, "attention_mask": 0, "labels": MASKED}
        rows = [
            {
                "input_ids": list(example.input_ids),
                "attention_mask": [1] * len(example.input_ids),
                "labels": list(example.labels),
            }
            for example in examples
        ]
        return {
            name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
            for name, value in fill.items()
        }


def prepare(tokenizer: Any, rows: Rows) -> PreparedData:
    train = [to_example(tokenizer, row) for row in rows.train]
    return PreparedData(
        train=train,
        lengths=[len(example.input_ids) for example in train],
        validation=[to_example(tokenizer, row) for row in rows.validation],
        collate=PadRight(tokenizer.pad_token_id),
        ledger=Ledger(
            rows=len(rows.train) + len(rows.validation), trained=len(rows.train), held_out=len(rows.validation)
        ),
        end_of_turn=tokenizer.eos_token_id,
    )


class FakeControl:
    """Keeps every step and evaluation, and commits checkpoints by renaming a staging folder."""

    def __init__(self, folder: Path, decide: Callable[[Step], Decision] | None = None) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.evaluations: list[tuple[int, Mapping[str, float]]] = []
        self.during: Callable[[], Any] = list  # what else is done at an evaluation, as the engine asks for answers
        self._decide = decide or (lambda step: Decision())

    def step_ended(self, step: Step) -> Decision:
        self.steps.append(step)
        return self._decide(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:
        self.evaluations.append((step, metrics))
        self.during()
        return Decision()

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        staging = self.folder / f".staging-{step}"
        staging.mkdir(parents=True)
        yield staging
        staging.rename(self.path(step))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    @property
    def losses(self) -> list[float]:
        return [step.metrics["loss"] for step in self.steps]


@attrs.frozen
class Tiny:
    """The tiny model's folder, tokenizer and data; each test loads its own copy of the weights."""

    base: Path
    rows: Rows
    tokenizer: Any
    data: PreparedData

    def run(self, folder: Path, **tables: Any) -> Run:
        """A run in `folder` that finds the tiny model there already."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "base").exists():
            shutil.copytree(self.base, folder / "base")
        return make_run(folder, **tables)

    def load(self, run: Run) -> Loaded:
        return TinyModel(TinyOptions()).load_model(run, self.tokenizer, None)

    def trainer(
        self,
        run: Run,
        *,
        lora: LoraOptions | None = None,
        data: PreparedData | None = None,
        sft: SftOptions | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Any:
        """Sft's trainer on the tiny model, with an adapter if `lora` is given."""
        loaded = self.load(run)
        if lora is not None:
            loaded = Lora(lora).adapt(run, loaded)
        return Sft(sft or SftOptions()).make_trainer(run, loaded, data or self.data, args or {})


def train_tiny(tiny: Tiny, folder: Path, *, trainer: Any = None, **tables: Any) -> FakeControl:
    run = tiny.run(folder, train={**SHORT, **tables.pop("train", {})}, **tables)
    control = FakeControl(folder / "checkpoints")
    (trainer or tiny.trainer(run)).train(control, None)
    return control


def plain_loss(tiny: Tiny, model: Any, examples: list[Example]) -> float:
    """Mean loss over the trained tokens of all examples, by transformers alone, row by row."""
    total, count = 0.0, 0
    for example in examples:
        batch = tiny.data.collate([example])
        trained = sum(label != MASKED for label in example.labels)
        total += model(**batch, num_items_in_batch=1).loss.item()
        count += trained
    return total / count
