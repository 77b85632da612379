"""Adapters that start from singular values: PiSSA and LoftQ. Imports PEFT.

PiSSA (https://arxiv.org/abs/2404.02948) moves the largest singular values of a weight W into the adapter, and
trains them on what is left of W. LoftQ (https://arxiv.org/abs/2310.08659) puts the largest ones of a
quantization error into the adapter; here in one round, so that the quantized weights stay those that any
tool makes of the base model. Both count the adapter's scale in, so that it may be any.

Neither is PEFT's: its LoftQ (0.21) leaves the scale out, so that it is right for alpha = r alone, and runs on CUDA
only; its PiSSA takes no quantized weights, and needs the first adapter on disk to save the last one for the base model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from peft import PeftModelForCausalLM
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import gather_params_ctx
from safetensors.torch import load_file, save_file

from ftcore.api import Loaded, Run, RunError
from ftcore_plugins.common.adapters.quantized import dequantized, is_quantized, quantize_again
from ftcore_plugins.common.hub import base_place, hub_errors, model_class
from ftcore_plugins.common.quiet import no_progress_bars

ADAPTER = "default"
PREFIX = "base_model.model."
OVERSAMPLING = 8


@attrs.frozen
class Start:
    """What an adapter began with, on the CPU: `a` of shape (r, inputs) and `b` of shape (outputs, r)."""

    a: torch.Tensor
    b: torch.Tensor


class SavedAsLora(PeftModelForCausalLM):  # type: ignore[misc]
    """A model whose weights gave a part of themselves to the adapter, saved as an adapter of the whole weights.

    Trained is W - s·B0·A0 + s·B·A. The same on W itself is an adapter of twice the rank, made of B, -B0 and of
    A, A0: any tool that knows LoRA puts it on the base model. `starts` are by layer, as the base model names it.
    """

    starts: Mapping[str, Start] = {}

    def save_pretrained(self, save_directory: str, *args: Any, **options: Any) -> None:
        """PEFT's, and the adapter in the folder is made one for the base model."""
        super().save_pretrained(save_directory, *args, **options)
        if options.get("is_main_process", True):
            _add_starts(Path(save_directory), self.starts)


def start_pissa(model: Any, whole: WholeWeights, plugin: str, rounds: int) -> dict[str, Start]:
    """Move the largest singular values of each weight into its adapter; return where each one began."""
    starts = {}
    for name, layer in _adapted(model, plugin):
        base = layer.get_base_layer()
        with gather_params_ctx(base.weight):
            weight = whole.of(name) if is_quantized(base) else base.weight.detach()
            weight = _upright(weight.to(base.weight.device, torch.float32), layer)
            starts[name] = start = _largest(weight, layer, rounds)
            rest = _upright(weight - layer.scaling[ADAPTER] * (start.b @ start.a).to(weight), layer)
            if is_quantized(base):
                quantize_again(base, rest)
            else:
                base.weight.data.copy_(rest)
    return starts


def start_loftq(model: Any, whole: WholeWeights, plugin: str) -> None:
    """Put the largest singular values of each quantization error into its adapter; the weights stay."""
    for name, layer in _adapted(model, plugin):
        base = layer.get_base_layer()
        if is_quantized(base):
            kept = dequantized(base).float()
            _largest(whole.of(name).to(kept) - kept, layer, 0)


def without_starts(stored: Mapping[str, torch.Tensor], model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What `SavedAsLora` saved in `folder`, as the adapter that the model in memory holds; any other one as it is.

    Raises `RunError` when it began elsewhere than this model, which lacks other parts of its weights then.
    """
    weights = dict(stored)
    for name, start in getattr(model, "starts", {}).items():
        a, b = (f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB")
        rank = start.a.shape[0]
        if a not in weights or b not in weights:
            continue  # which the caller finds, among all names
        began = weights[a][rank:], weights[b][:, rank:]
        if not (torch.equal(began[0], start.a.to(began[0])) and torch.equal(began[1], -start.b.to(began[1]))):
            fault = f"{name} did not begin at the singular values that it has on this machine"
            raise RunError(f"{folder} cannot be put into this model: {fault}; name a checkpoint with --checkpoint")
        weights[a], weights[b] = weights[a][:rank].contiguous(), weights[b][:, :rank].contiguous()
    return weights


class WholeWeights:
    """The weights of the base model before they were quantized, read again when they are first asked for."""

    def __init__(self, run: Run, loaded: Loaded) -> None:
        self._trusted = run.profile.model.trust_remote_code
        self._loaded = loaded
        self._model: Any = None

    def of(self, name: str) -> torch.Tensor:
        """The weight of the layer that the model calls so, on the CPU. Raises `RunError` if it cannot be read."""
        if self._model is None:
            self._model = _read_whole(self._loaded, self._trusted)
        weight: torch.Tensor = self._model.get_submodule(name).weight.detach()
        return weight


def needs_whole(base: str) -> str:
    """What is told of a base that has no whole weights to start from."""
    return f"model.id: {base} is saved quantized, and its whole weights are needed; set init = 'default'"


def _read_whole(loaded: Loaded, trusted: bool) -> Any:
    from transformers import AutoConfig

    place = base_place(loaded, trusted=trusted)
    with hub_errors(loaded.base, loaded.revision), no_progress_bars():
        config = AutoConfig.from_pretrained(loaded.base, **place)
        if getattr(config, "quantization_config", None) is not None:
            raise RunError(needs_whole(loaded.base))
        return model_class(config).from_pretrained(loaded.base, dtype="auto", use_safetensors=True, **place)


def _adapted(model: Any, plugin: str) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if ADAPTER not in layer.lora_A:
            fault = f"{name.removeprefix(PREFIX)} is no linear layer and has no singular values to start from"
            raise RunError(f"plugin.{plugin}.init: {fault}; leave it out of targets, or set init = 'default'")
        yield name.removeprefix(PREFIX), layer


def _largest(weight: torch.Tensor, layer: Any, rounds: int) -> Start:
    """Give the adapter of `layer` the largest singular values of `weight`, of shape (outputs, inputs)."""
    rank, scale = layer.r[ADAPTER], layer.scaling[ADAPTER]
    if rounds:
        left, values, right = torch.svd_lowrank(weight, q=min(rank + OVERSAMPLING, *weight.shape), niter=rounds)
        right = right.T
    else:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    a, b = root[:, None] * right[:rank], left[:, :rank] * root
    layer.lora_A[ADAPTER].weight.data.copy_(a)
    layer.lora_B[ADAPTER].weight.data.copy_(b)
    # From the adapter, whose type may have rounded them: what the weights lose is what the adapter got.
    return Start(*(matrix[ADAPTER].weight.detach().float().cpu().clone() for matrix in (layer.lora_A, layer.lora_B)))


def _upright(weight: torch.Tensor, layer: Any) -> torch.Tensor:
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight


def _add_starts(folder: Path, starts: Mapping[str, Start]) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    for name, start in starts.items():
        a, b = (f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB")
        weights[a] = torch.cat([weights[a], start.a.to(weights[a])], 0)
        weights[b] = torch.cat([weights[b], -start.b.to(weights[b])], 1)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    factor = 2**0.5 if config["use_rslora"] else 2  # keeps alpha / sqrt(r), or alpha / r, as it is
    config |= {"r": 2 * config["r"], "lora_alpha": factor * config["lora_alpha"]}
    path.write_text(json.dumps(config, indent=2), "utf-8")
