"""QLoRA on the tiny model: loaded as a run loads it, trained for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcore.api import Decision, Loaded, Run, Step
from ftcore_plugins.qlora import Options, QLora
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from tiny_kit import SHORT, FakeControl, Tiny

STEPS = 6


def load(tiny: Tiny, run: Run, **options: Any) -> Loaded:
    """The tiny model, quantized and with an adapter."""
    plugin = QLora(Options(**options))
    quantized = TinyModel(TinyOptions()).load_model(run, tiny.tokenizer, plugin.quantize(run))
    return plugin.adapt(run, quantized)


def run_of(tiny: Tiny, folder: Path, **train: Any) -> Run:
    return tiny.run(folder, train={**SHORT, "max_steps": STEPS, **train})


def train(
    tiny: Tiny,
    run: Run,
    loaded: Loaded,
    decide: Callable[[Step], Decision] | None = None,
    start: Path | None = None,
) -> tuple[FakeControl, Any]:
    """Train on from `start`; the control with the losses, and the trainer."""
    trainer = Sft(SftOptions()).make_trainer(run, loaded, tiny.data, {})
    control = FakeControl(run.folder / f"checkpoints-{start.name if start else ''}-{id(trainer)}", decide)
    control.during = lambda: trainer.generate(tiny.data.validation, 3)
    trainer.train(control, start)
    return control, trainer


def losses(tiny: Tiny, folder: Path, *, evaluate: bool = False, **options: Any) -> list[float]:
    """Losses of all steps, with an evaluation after the third one or without."""
    run = run_of(tiny, folder)
    control, _ = train(
        tiny, run, load(tiny, run, **options), lambda step: Decision(evaluate=evaluate and step.number == 3)
    )
    return control.losses
