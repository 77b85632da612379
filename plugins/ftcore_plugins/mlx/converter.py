"""Converts a model with MLX's own code: `python -m ftcore_plugins.mlx.converter FOLDER REQUEST`, see `writer`.

Ends with code 1 and one line that says why when it cannot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ftcore_plugins.common.converters import end_with_parent
from ftcore_plugins.mlx.isolation import without_torch


def main() -> None:
    """Write each target of the request into a folder of its own."""
    end_with_parent()
    folder, request = Path(sys.argv[1]), json.loads(sys.argv[2])
    try:
        convert_all(folder, request)
    except Exception as error:  # whatever keeps a library of many from it; the whole tale is of no use to a user
        sys.exit(str(error).strip().partition("\n")[0] or type(error).__name__)


def convert_all(folder: Path, request: Mapping[str, Any]) -> None:
    """Convert the model `source` once for each of `targets`, which are formats."""
    without_torch()
    convert = _converter(images=request["images"])
    for target in request["targets"]:
        quantized: dict[str, Any] = {}
        if target["bits"]:
            quantized = {"quantize": True, "q_bits": target["bits"], "q_group_size": request["group_size"]}
        convert(
            hf_path=request["source"],
            mlx_path=str(folder / target["name"]),
            dtype=target["dtype"] or None,
            trust_remote_code=request["trusted"],
            **quantized,
        )


def _converter(*, images: bool) -> Callable[..., None]:
    module = import_module("mlx_vlm.convert" if images else "mlx_lm.convert")
    convert: Callable[..., None] = module.convert
    return convert


if __name__ == "__main__":
    main()
