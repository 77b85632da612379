"""A real model, small enough to train on two CPU cores in seconds or minutes: for tests, CI and a first try.

Its tokenizer is trained on the run's own rows and its weights are random, so nothing is downloaded. Both
are saved in the run's folder as `base`, where any tool finds them as it finds a model from a hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ftcore.api import Loaded, Problem, Quantization, Rows, Run, hookimpl
from ftcore_plugins.common.alone import alone
from ftcore_plugins.common.devices import dtype_of
from ftcore_plugins.common.quiet import no_progress_bars
from ftcore_plugins.common.staging import staged
from ftcore_plugins.tiny_model.corpus import texts
from ftcore_plugins.tiny_model.gemma3 import Gemma3
from ftcore_plugins.tiny_model.llama import Llama, train_tokenizer
from ftcore_plugins.tiny_model.options import Fault, Options, shape_faults

__all__ = ["Options", "TinyModel", "texts", "train_tokenizer"]


class Family(Protocol):
    """What there is to know about one architecture. `make_model` draws from torch's global stream."""

    def missing(self) -> list[Problem]: ...
    def faults(self) -> Iterator[Fault]: ...
    def make_processor(self, rows: Rows) -> Any: ...
    def read_processor(self, base: Path) -> Any: ...
    def make_model(self, processor: Any) -> Any: ...
    def read_model(self, base: Path, options: dict[str, Any]) -> Any: ...
    def sketch_config(self) -> Any: ...


FAMILIES: Mapping[str, Callable[[Options], Family]] = {"llama": Llama, "gemma3": Gemma3}


class TinyModel:
    """Trains a tokenizer on the rows and makes a Llama, or a Gemma 3 that reads images, with random weights."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self.family = FAMILIES[config.architecture](config)

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The shape must be one that such a model can have, and its rows must fit."""
        faults = [*shape_faults(self.config, run.profile.train.max_length), *self.family.faults()]
        problems = [Problem(key=f"plugin.tiny_model.{name}", message=fault) for name, fault in faults]
        return [*self.family.missing(), *problems]

    @hookimpl
    def load_processor(self, run: Run, rows: Rows) -> Any:
        """The saved tokenizer or processor of a run that goes on, else one trained on the training rows."""
        base = run.folder / "base"
        return self.family.read_processor(base) if base.is_dir() else self.family.make_processor(rows)

    @hookimpl
    def sketch_model(self, run: Run) -> Loaded:
        """The model on the meta device, with as many tokens as `vocabulary_size` allows."""
        from ftcore_plugins.common.sketch import sketch

        model = sketch(self.family.sketch_config(), dtype_of(run))
        return Loaded(model=model, processor=None, base=str(run.folder / "base"))

    @hookimpl
    def load_model(self, run: Run, processor: Any, quantization: Quantization | None) -> Loaded:
        """Make the weights once, then read them from the run's folder as from any other."""
        import torch

        base = run.folder / "base"
        options: dict[str, Any] = {"dtype": dtype_of(run), **(quantization.options if quantization else {})}
        if run.world.is_main and not base.is_dir():
            self._save(base, processor, run.profile.run.seed)
        if run.world.size > 1:  # the others read what the main process has made
            torch.distributed.barrier()
        if run.profile.model.attention != "auto":
            options["attn_implementation"] = run.profile.model.attention
        with no_progress_bars(), torch.random.fork_rng():
            model = self.family.read_model(base, options)
        return Loaded(model=model, processor=processor, base=str(base))

    def _save(self, base: Path, processor: Any, seed: int) -> None:
        import torch

        with torch.random.fork_rng(), alone():
            torch.manual_seed(seed)
            model = self.family.make_model(processor)
        with staged(base) as folder, no_progress_bars(), alone():
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
