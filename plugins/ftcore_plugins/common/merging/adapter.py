"""A saved adapter: read, checked, and turned into what it does to each weight. Imports torch and PEFT."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ftcore.api import Loaded, RunError
from ftcore_plugins.common.merging.shards import require_finite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

UNDERSTOOD = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("lora_dropout", "init_lora_weights", "loftq_config", "inference_mode", "task_type", "auto_mapping"),
    *("base_model_name_or_path", "revision", "peft_type", "peft_version"),
}
"""Settings whose every value is merged here, or says nothing about merging."""

PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Starts that leave the weights of the base model alone."""

REASONS = {"use_dora": "DoRA", "bias": "its bias terms are trained, too", "lora_bias": "it has bias terms"}


@attrs.frozen(kw_only=True)
class Adapter:
    """A folder's adapter: its settings, and its tensors by the names that PEFT gives them, without the prefix."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def foreign(self, base: str, why: str) -> RunError:
        """What to raise where it was made for another model."""
        return RunError(f"merge: the adapter in {self.folder} does not belong to {base}: {why}")


def read_adapter(folder: Path, loaded: Loaded) -> Adapter:
    """Raises `RunError` where it is damaged, empty or for another base model."""
    config = _read_config(folder / CONFIG)
    tensors = _read_weights(folder / WEIGHTS)
    adapter = Adapter(folder=folder, config=config, tensors=tensors)
    _require_base(adapter, loaded)
    if not tensors:
        raise RunError(f"merge: {folder / WEIGHTS} is empty, no tensor is in it; export from a checkpoint")
    for name, tensor in tensors.items():
        require_finite(name, tensor)
    return adapter


def refusals(config: Mapping[str, Any]) -> Iterator[str]:
    """Why the settings of an adapter are nothing for a streaming merge, each reason in a few words."""
    from peft import LoraConfig

    if config.get("peft_type") != "LORA":
        yield f"it is {config.get('peft_type')} and not LoRA"
        return
    usual = LoraConfig().to_dict()
    for name, value in config.items():
        if name not in UNDERSTOOD and value and value != usual.get(name):
            yield REASONS.get(name, f"its {name} is set")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        yield f"its start, {start}, has changed the base model"


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"merge: {path} is not there; it says how the adapter is scaled, put it back") from None
    except ValueError as error:
        raise RunError(f"merge: {path} is damaged: {error}; export from a checkpoint") from None
    fault = _fault(config)
    if fault:
        raise RunError(f"merge: {path} is damaged: {fault}; export from a checkpoint")
    return dict(config)


def _fault(config: Any) -> str:
    """What is wrong with the settings that a merge goes by, or nothing."""
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        return "it has no peft_type that is a name"
    for name in ("r", "lora_alpha") if config["peft_type"] == "LORA" else ():
        if not isinstance(config.get(name), int | float):
            return f"it has no {name} that is a number"
    for name in ("rank_pattern", "alpha_pattern"):
        if not _is_table_of_numbers(config.get(name) or {}):
            return f"its {name} is no table of patterns and numbers"
    return ""


def _is_table_of_numbers(value: Any) -> bool:
    try:
        return all(re.compile(name) and isinstance(number, int | float) for name, number in value.items())
    except (AttributeError, re.error):
        return False


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise RunError(f"merge: {path} is not there; export from a checkpoint") from None
    except SafetensorError as error:
        raise RunError(f"merge: {path} is damaged: {error}; export from a checkpoint") from None


def _require_base(adapter: Adapter, loaded: Loaded) -> None:
    """Names are compared where both are the hub's: a folder may have been moved."""
    named, revision = (str(adapter.config.get(key) or "") for key in ("base_model_name_or_path", "revision"))
    if not named or any(Path(name).is_dir() or not _is_hub_id(name) for name in (named, loaded.base)):
        return
    if named != loaded.base:
        raise adapter.foreign(loaded.base, f"it was trained on {named}; name that as model.id")
    if revision and loaded.revision and revision != loaded.revision:
        raise adapter.foreign(loaded.base, f"it was trained on revision {revision}; set model.revision to it")


def _is_hub_id(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "~", "/"))
