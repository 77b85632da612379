"""Faster kernels for the same sums: Liger's, and those that torch compiles. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from ftcore.api import RunError
from ftcore_plugins.sft import Options

# Without Liger's losses: ours has logits at trained positions only, which they would calculate for all.
PARTS = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}


def liger_arguments(config: Options, device: str) -> dict[str, Any]:
    """Trainer arguments that put Liger's kernels (https://arxiv.org/abs/2410.10989) in place, if they shall be."""
    there = device == "cuda" and find_spec("liger_kernel") is not None
    wanted = there if config.liger == "auto" else config.liger == "on"
    return {"use_liger_kernel": True, "liger_kernel_config": PARTS} if wanted else {}


def compile_layers(model: Any) -> None:
    """Let torch compile each layer of the language model: they are alike, so that one compilation serves all.

    The output layer stays as it is, which sees another number of trained tokens in every batch. Raises `RunError`
    for a model that does not name its layers.
    """
    layers: Sequence[Any] = getattr(model.get_decoder(), "layers", ())
    if not layers:
        raise RunError("plugin.sft.compile: the model does not say which its layers are; set it to false")
    for layer in layers:
        layer.compile(dynamic=True)
