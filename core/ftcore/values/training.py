"""A model, and what a trainer and the engine tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import attrs

from ftcore.values.rows import Example


@attrs.frozen(kw_only=True)
class Quantization:
    """How the loader reads the weights: keyword arguments for `from_pretrained`.

    The planner counts `bytes_per_weight` for every weight of a linear layer, but for the output layer and what
    `left_out` has the full names of, layers or blocks of them, which keep `model.dtype`. Without it, nothing is
    counted as smaller.
    """

    name: str
    options: Mapping[str, Any]
    bytes_per_weight: float | None = None
    left_out: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class SavedAs:
    """How the weights of a base model lie in its files, where they are saved quantized; `kind` such as `nf4` or `gptq`.

    With `whole` they are made whole as they are read. Otherwise they stay as they are, and `bytes_per_weight` and
    `left_out` are those of `Quantization`; without `bytes_per_weight`, nobody knows how large they are in memory.
    """

    kind: str
    bytes_per_weight: float | None = None
    left_out: tuple[str, ...] = ()
    whole: bool = False

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows how large the weights are in memory."""
        return not self.whole and self.bytes_per_weight is None


@attrs.frozen(kw_only=True)
class Loaded:
    """A model with its tokenizer or processor.

    `base` is what `from_pretrained` finds the untouched weights by: a folder or a hub id.
    `adapter` names the kind of trainable adapter, and is empty when all weights are trained.
    `rate_factors` maps regular expressions to what `train.learning_rate` is multiplied by for the parameters
    whose whole name they match; the first match counts. `license` is the base model's, as its card names it.
    A sketch says in `saved` how the base's weights are saved, if they are quantized.
    """

    model: Any
    processor: Any
    base: str
    revision: str = ""
    adapter: str = ""
    rate_factors: Mapping[str, float] = attrs.field(factory=dict)
    license: str = ""
    saved: SavedAs | None = None


@attrs.frozen(kw_only=True)
class Step:
    """One finished optimizer step, counted from 1, of `total`.

    `metrics` holds `loss`, `learning_rate`, `grad_norm`, `tokens` (trained on in this step), `tokens_per_second`,
    `seconds` that the step took, `data_seconds` of them that it waited for its batches, and `memory`, the most GiB
    that the device has held so far (on a CPU, the process). As observers get it, the engine has added `tokens_seen`
    since the start of the run and, every few seconds, what it measured of the machine: `system/...`.
    """

    number: int
    total: int
    epoch: float
    metrics: Mapping[str, float]


@attrs.frozen(kw_only=True)
class StopRequest:
    """Asks for a clean stop after this step, with a checkpoint. The reason is told to the user."""

    reason: str


@attrs.frozen(kw_only=True)
class Decision:
    """What a trainer does after a step: evaluate, commit a checkpoint, stop, in this order."""

    evaluate: bool = False
    checkpoint: bool = False
    stop: bool = False


@attrs.frozen(kw_only=True)
class RowLoss:
    """The loss of one example: the sum over its `tokens` trained tokens, in nats."""

    nats: float
    tokens: int


class Control(Protocol):
    """What the engine gives to a trainer, so that every trainer logs, saves and stops the same way.

    With several processes, each calls its own control; only the main one's writes and tells.
    """

    def step_ended(self, step: Step) -> Decision:
        """Report a finished step; the answer must be obeyed before the next one begins.

        Processes may answer differently (one has got a signal): do what any of them says, on all of them.
        """

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Report an evaluation on the held-out rows; the metrics are those of `Trainer.evaluate`.

        The engine may ask the trainer to `generate` meanwhile. The answer is about a checkpoint and a stop, and
        adds to what `step_ended` has decided: with several processes, do what any of them says.
        """

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A staging folder that becomes the checkpoint of `step`, whole or not at all, on a clean exit.

        The main process enters first, since the folder is made then, and leaves last, when all have written.
        """


class Trainer(Protocol):
    """What `make_trainer` returns. With several processes, each calls every method, in the same order."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps that the whole run takes."""

    def train(self, control: Control, checkpoint: Path | None) -> int:
        """Train from a checkpoint or from the start; return the number of the last step taken."""

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on the held-out rows: `eval_loss` in nats per trained token; empty without such rows.

        Draws no random numbers.
        """

    def losses(self, examples: Sequence[Example]) -> Sequence[RowLoss]:
        """The loss of each example, in order. Draws no random numbers."""

    def generate(self, examples: Sequence[Example], max_new_tokens: int, temperature: float = 0.0) -> Sequence[str]:
        """Answers to the prompts of the examples, in order, without the end-of-turn token. At temperature 0, greedy.

        Draws no random numbers of the training's, whatever the temperature.
        """

    def load(self, folder: Path) -> None:
        """Put in the tuned weights of a checkpoint, or of what `save` wrote, without the state of the optimizer.

        The model of the `Loaded` that the trainer was made with is the tuned one then, bit for bit. Raise `RunError`
        for weights that are not this model's, and leave it as it was.
        """

    def save(self, folder: Path) -> Loaded:
        """Write the adapter, or the whole model if there is none, with its tokenizer, as safetensors.

        Returns the tuned model as exporters take it: whole on the main process, also where it was sharded. What
        the other processes return is not used.
        """


@attrs.frozen(kw_only=True)
class Prediction:
    """What the model answered to a held-out example."""

    example: Example
    answer: str
