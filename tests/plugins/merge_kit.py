"""Adapters with random weights on tiny models, and what PEFT makes of them: for the tests of the merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from ftcore.api import Artifact, ExportTable, Loaded, PreparedData, Profile, Run
from ftcore_plugins.common.merging import Merged, merged_folder
from ftcore_plugins.merge import Merge, Options

QUIET = ("ignore::FutureWarning", "ignore:Model has `tie_word_embeddings:UserWarning", "ignore:fan_in_fan_out")


@attrs.frozen
class Saved:
    """A base model in a folder, the tuned one in memory, and the folder with what was saved of it."""

    run: Run
    loaded: Loaded
    data: PreparedData
    saved: Path

    @property
    def exports(self) -> Path:
        return self.run.folder / "exports"

    def export(self, **options: Any) -> Artifact:
        return Merge(Options(**options)).export(self.run, self.loaded, self.data, self.saved, self.exports)

    def shared(self) -> Merged:
        return merged_folder(self.run, self.loaded, self.data, self.saved, self.exports)

    def into(self, base: str) -> Saved:
        """The same with another `export.base`."""
        profile: Profile = attrs.evolve(self.run.profile, export=ExportTable(base=base))
        return attrs.evolve(self, run=attrs.evolve(self.run, profile=profile))


def disturb(model: Any, size: float = 0.1) -> None:
    """Add to everything that is trained, so that an adapter does something."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.add_(size * torch.randn(weight.shape, generator=drawn))


def adapted(run: Run, model: Any, processor: Any, data: PreparedData, base: Path, **options: Any) -> Saved:
    """`model` with a random adapter, saved in the run's folder as the trainer does it."""
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    disturb(tuned)
    saved = run.folder / "adapter"
    tuned.save_pretrained(saved, save_embedding_layers=False)
    loaded = Loaded(model=tuned, processor=processor, base=str(base), adapter="lora")
    return Saved(run, loaded, data, saved)


def by_peft(saved: Saved, dtype: torch.dtype, weights: Mapping[str, Callable[[], torch.Tensor]] | None = None) -> Any:
    """What PEFT merges: the base, read anew, with the adapter; `weights` take the place of the base's first."""
    seeing = hasattr(saved.loaded.processor, "image_processor")
    kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    base = kind.from_pretrained(saved.loaded.base, dtype=dtype)
    for name, weight in (weights or {}).items():
        base.get_submodule(name).weight.data.copy_(weight())
    return PeftModel.from_pretrained(base, saved.saved).merge_and_unload().to(dtype)


def written(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by their names in the files."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def loaded_from(folder: Path, like: Any) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by their names in memory."""
    return dict(type(like).from_pretrained(folder, dtype="auto").state_dict())


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether names, types and bits are equal."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )
