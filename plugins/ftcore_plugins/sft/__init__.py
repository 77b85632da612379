"""Supervised fine-tuning with TRL's trainer: the plain way to train, and the fallback for `make_trainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import attrs

from ftcore.api import Loaded, PreparedData, Problem, Run, Trainer, hookimpl, option
from ftcore_plugins.common.quiet import no_telemetry, quiet_logger
from ftcore_plugins.common.requirements import missing


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.sft]`."""

    final_learning_rate: float = option(
        0.0, at_least=0, help="learning rate at which train.scheduler ends, if it is cosine or linear"
    )
    adam_beta1: float = option(0.9, at_least=0, below=1, help="decay of AdamW's mean of gradients")
    adam_beta2: float = option(0.999, at_least=0, below=1, help="decay of AdamW's mean of squared gradients")
    neftune_noise: float = option(
        0.0, at_least=0, help="scale of noise on the embeddings while training (https://arxiv.org/abs/2310.05914)"
    )
    group_steps: int = option(
        50, at_least=1, help="steps that share out their rows by length, for less padding; 1 draws every step at random"
    )
    labelled_logits: bool = option(
        True, help="compute logits only where a token is trained: the same loss for less time and memory"
    )
    liger: Literal["auto", "on", "off"] = option(
        "auto", help="Liger's kernels (pip install 'ftcore[liger]'); auto takes them on a CUDA device if installed"
    )
    compile: bool = option(False, help="let torch compile the layers: slower first steps, faster ones after them")


class Sft:
    """Trains on labelled tokens; every step is reported, and every checkpoint resumes bit for bit."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """TRL must be there, and what the optimizer and the kernels come from."""
        found = missing("sft", "train", "torch", "transformers", "trl", "datasets")
        problems = (_schedule_problems(run, self.config), _optimizer_problems(run), _kernel_problems(run, self.config))
        return [*found, *chain.from_iterable(problems)]

    @hookimpl
    def make_trainer(self, run: Run, loaded: Loaded, data: PreparedData, args: Mapping[str, Any]) -> Trainer:
        """Build TRL's trainer on rows that are tokenized already; `args` override its `SFTConfig`."""
        no_telemetry()
        with quiet_logger("bitsandbytes"):  # TRL imports it if it can, and it tells which kernels it lacks
            from ftcore_plugins.sft.trainer import make_trainer

        return make_trainer(run, loaded, data, self.config, args)


def _schedule_problems(run: Run, config: Options) -> Iterator[Problem]:
    train, final, key = run.profile.train, config.final_learning_rate, "plugin.sft.final_learning_rate"
    if final and train.scheduler == "constant":
        yield Problem(key=key, message="a constant schedule ends where it is; set train.scheduler, or leave it out")
    elif final >= train.learning_rate:
        yield Problem(
            key=key, message=f"{final:g} is not below train.learning_rate = {train.learning_rate:g}; lower it"
        )


def _optimizer_problems(run: Run) -> Iterator[Problem]:
    optimizer = run.profile.train.optimizer
    if "8bit" not in optimizer and "paged" not in optimizer:
        return
    for problem in missing("sft", "qlora", "bitsandbytes"):
        yield attrs.evolve(problem, key="train.optimizer")
    if "paged" in optimizer and run.profile.hardware.device == "cpu":
        other = optimizer.removeprefix("paged_")
        message = f"{optimizer} moves state between a GPU and its host; on a CPU, set it to {other}"
        yield Problem(key="train.optimizer", message=message, severity="warning")


def _kernel_problems(run: Run, config: Options) -> Iterator[Problem]:
    if config.liger == "on":
        for problem in missing("sft", "liger", "liger_kernel"):
            yield attrs.evolve(problem, key="plugin.sft.liger")
        device = run.profile.hardware.device
        if device in ("cpu", "mps"):
            message = f"Liger's kernels need a CUDA device, not {device}; set it to auto"
            yield Problem(key="plugin.sft.liger", message=message)
