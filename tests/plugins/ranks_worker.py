"""One process of a training by several: run by `torch.distributed.run`, it does the jobs of a JSON file in turn.

Each job trains the tiny model by one strategy and leaves what it found in `folder/NAME.json`, written by the main
process, beside its checkpoints and what it saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Decision, Step, World
from tiny_kit import FakeControl, Tiny, make_rows, prepare


@attrs.frozen(kw_only=True)
class Job:
    """A training. `strategy` is ddp, fsdp, zero2 or zero3; `checkpoint_at` commits one after that step."""

    name: str
    strategy: str
    base: str
    lora: Mapping[str, Any] | None = None
    train: Mapping[str, Any] = attrs.field(factory=dict)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    checkpoint_at: int = 0
    stop_at: int = 0
    resume: str = ""
    judge: bool = False


def world_of(environment: Mapping[str, str]) -> World:
    """As the launcher says it."""
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    return World(**{key: int(environment[name]) for key, name in names.items()}) if "RANK" in environment else World()


def plugin_of(job: Job) -> Any:
    """The strategy's plugin; DDP needs none."""
    if job.strategy == "fsdp":
        from ftcore_plugins.fsdp import Fsdp, Options

        return Fsdp(Options(**job.options))
    if job.strategy.startswith("zero"):
        from ftcore_plugins import deepspeed_zero as zero

        kind = {"zero2": zero.Zero2, "zero3": zero.Zero3}[job.strategy]
        return kind(kind.Config(**job.options))
    return None


class RankControl(FakeControl):
    """Decides by the job, but on the main process only: what it says must reach the others."""

    def __init__(self, folder: Path, job: Job, rank: int) -> None:
        super().__init__(folder, lambda step: self._decided(job, step) if rank == 0 else Decision())
        self._rank = rank

    def _decided(self, job: Job, step: Step) -> Decision:
        return Decision(
            evaluate=job.judge and step.number in (job.checkpoint_at, job.checkpoint_at + 1),
            checkpoint=step.number in (job.checkpoint_at, job.stop_at),
            stop=step.number == job.stop_at,
        )

    def checkpoint(self, step: int) -> Any:
        if self._rank == 0:
            return super().checkpoint(step)
        import contextlib

        staging = self.folder / f".staging-{step}"
        assert staging.is_dir(), "the main process makes the folder first"
        return contextlib.nullcontext(staging)


def load(tiny: Tiny, run: Any, plugin: Any) -> Any:
    """The model, loaded within the plugin's wrapper, if it has one, as pluggy does it."""
    if not hasattr(plugin, "load_model"):
        return tiny.load(run)
    around = plugin.load_model(run)
    next(around)
    loaded = tiny.load(run)
    try:
        around.send(loaded)
    except StopIteration as end:
        return end.value
    raise AssertionError("the wrapper yields once")


def train(job: Job, folder: Path) -> dict[str, Any]:
    """Do one job; the answer is the same on every process, but for `control`."""
    from ftcore_plugins.lora import Lora
    from ftcore_plugins.lora import Options as LoraOptions
    from ftcore_plugins.sft import Options, Sft

    world, base, rows = world_of(os.environ), Path(job.base), make_rows()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tiny = Tiny(base=base, rows=rows, tokenizer=tokenizer, data=prepare(tokenizer, rows))
    run = attrs.evolve(_run(folder, base, job), world=world)
    plugin = plugin_of(job)
    loaded = load(tiny, run, plugin)
    if job.lora is not None:
        loaded = Lora(LoraOptions(**job.lora)).adapt(run, loaded)
    args = {} if plugin is None else plugin.training_args(run) or {}
    trainer = Sft(Options()).make_trainer(run, loaded, tiny.data, args)
    control = RankControl(folder / f"{job.name}-checkpoints", job, world.rank)
    control.during = lambda: trainer.generate(tiny.data.validation, 4)
    found: dict[str, Any] = {"type": trainer.inner.accelerator.distributed_type.value}
    if job.judge:
        found["before"] = dict(trainer.evaluate())
    trainer.train(control, Path(job.resume) if job.resume else None)
    tuned = trainer.save(folder / job.name)
    if world.is_main:
        found["tuned"] = _loss(tuned.model, tiny)
    found |= {"losses": control.losses, "metrics": [dict(step.metrics) for step in control.steps]}
    found["evaluations"] = [dict(metrics) for _, metrics in control.evaluations]
    if job.judge:
        found["after"] = dict(trainer.evaluate())
        found["answers"] = list(trainer.generate(tiny.data.validation, 4))
        found["row_losses"] = [loss.nats for loss in trainer.losses(tiny.data.train[:7])]
        found["drawn"] = list(trainer.generate(tiny.data.validation, 4, 1.0))
        trainer.load(control.path(job.checkpoint_at))  # as a run does that ends with its best weights
        found["back"] = dict(trainer.evaluate())
        back = trainer.save(folder / f"{job.name}-back")
        found["tuned_back"] = _loss(back.model, tiny) if world.is_main else None
    if world.is_main:
        (folder / f"{job.name}.json").write_text(json.dumps(found), "utf-8")
    return found


def _run(folder: Path, base: Path, job: Job) -> Any:
    from tiny_kit import make_run

    if not (folder / "base").exists():
        (folder / "base").symlink_to(base)
    return make_run(folder, train=dict(job.train), hardware={"device": "cpu"})


def _loss(model: Any, tiny: Tiny) -> float:
    """Of the held-out rows, by transformers alone: what is returned must be a whole model."""
    import torch

    model.eval()
    with torch.no_grad():
        return float(model(**tiny.data.collate(tiny.data.validation)).loss)


def main(jobs: Path) -> None:
    """Do all jobs of the file, in one process group."""
    import torch

    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for entry in json.loads(jobs.read_text("utf-8")):
        train(Job(**entry), jobs.parent)
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
