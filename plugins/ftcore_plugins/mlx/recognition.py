"""What a folder says of itself, read without MLX: whether it is one of MLX, how it is quantized, if it reads images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcore_plugins.common import model_folder
from ftcore_plugins.common.model_folder import headers

DTYPES = {"BF16": "bf16", "F16": "fp16", "F32": "float32"}


def is_mlx(folder: Path) -> bool:
    """Whether MLX has written it."""
    if not folder.is_dir():
        return False
    return _header(folder).get("__metadata__", {}).get("format") == "mlx" or "quantization" in read_config(folder)


def read_config(folder: Path) -> Mapping[str, Any]:
    """`config.json`, or nothing where there is none that can be read."""
    return model_folder.read_config(folder) or {}


def reads_images(config: Mapping[str, Any]) -> bool:
    """Whether the model has a vision tower, which mlx-lm would leave out."""
    return bool(config.get("vision_config"))


def quantization_of(folder: Path) -> str:
    """Its name, such as 4bit, mxfp4 or bf16; empty where the folder does not say."""
    settings = read_config(folder).get("quantization")
    if isinstance(settings, dict) and "bits" in settings:
        mode = settings.get("mode", "affine")
        return f"{settings['bits']}bit" if mode == "affine" else str(mode)
    tensors = [value for name, value in _header(folder).items() if name != "__metadata__"]
    types = {str(tensor.get("dtype")) for tensor in tensors if isinstance(tensor, dict)}
    return next((name for dtype, name in DTYPES.items() if dtype in types), "")


def _header(folder: Path) -> Mapping[str, Any]:
    """Of the first file with weights."""
    return next(headers(folder), {})
