"""The runtime of a merged folder: plain transformers, as a stranger loads it, without PEFT or this training process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ftcore_plugins.common.answering import Answering
from ftcore_plugins.common.generation import own_stops
from ftcore_plugins.common.hub import model_class, processor_class
from ftcore_plugins.common.proof.process import answer
from ftcore_plugins.common.quiet import no_progress_bars


def open_folder(folder: Path, *, trust_remote_code: bool = False) -> Answering:
    """The model and the processor in the folder, and nothing from elsewhere.

    Raises `ValueError` where transformers would go on: for weights that are not there, which it draws at random, and
    for those that are no numbers.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    with no_progress_bars(), torch.random.fork_rng():
        config = AutoConfig.from_pretrained(folder, **options)
        processor = processor_class(config).from_pretrained(folder, **options)
        kind = model_class(config)
        model, read = kind.from_pretrained(folder, dtype="auto", output_loading_info=True, **options)
    _require_whole(model, sorted(read["missing_keys"]))
    return Answering(model=model.eval(), processor=processor, stops=own_stops(model))


def _require_whole(model: Any, lacking: list[str]) -> None:
    if lacking:
        raise ValueError(f"it has no weights for {lacking[0]}")
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise ValueError(f"{name} holds what is no number (NaN) or infinite")


if __name__ == "__main__":
    answer(open_folder)
