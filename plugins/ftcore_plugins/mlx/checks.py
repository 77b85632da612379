"""What can be known before training: the packages, the machine, and whether the model fits."""

from __future__ import annotations

import ast
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftcore.api import Problem, Run
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.mlx.formats import FORMATS
from ftcore_plugins.mlx.recognition import read_config, reads_images

GROUPS = (128, 64, 32)
WIDTHS = ("hidden_size", "intermediate_size", "moe_intermediate_size", "n_embd", "n_inner")
"""Of a configuration, the widths that rows of weights have."""

PATTERNED = ("gemma3", "gemma3_text")
PATTERN = 6
"""Layers of which MLX takes the last for one of full attention, where the configuration does not say."""


def problems(run: Run, quantization: Sequence[str], group_size: int) -> list[Problem]:
    """Everything that is wrong, as far as the model's configuration is there to be looked at."""
    if not quantization:
        return [Problem(key="plugin.mlx.quantization", message="is empty; name what to write, such as '4bit'")]
    if elsewhere := _other_machine():
        return [Problem(key="plugin.mlx", message=elsewhere)]
    config = read_config(Path(run.profile.model.id)) if run.profile.model.id else {}
    faults = [*_model_faults(config), *_group_faults(config, quantization, group_size)]
    return [*lacking(config), *(Problem(key=key, message=message) for key, message in faults)]


def lacking(config: Mapping[str, Any]) -> list[Problem]:
    """The packages that a model of this configuration needs and that are not there."""
    found = missing("mlx", "mlx", "mlx_lm", "mlx.core")
    if not found and sys.platform == "linux" and not _has_library():
        message = "mlx is installed without its library for Linux; run: pip install 'ftcore[mlx]'"
        found = [Problem(key="plugin.mlx", message=message)]
    return [*found, *(missing("mlx", "mlx-vision", "mlx_vlm") if reads_images(config) else [])]


def width_fault(config: Mapping[str, Any], group_size: int) -> str:
    """Which widths of the model no groups of this size tile, and what does; empty if all fit.

    MLX would leave such layers whole, and say nothing.
    """
    widths = dict(_widths(config.get("text_config") or config))
    unfit = [f"{name} ({width})" for name, width in widths.items() if width % group_size]
    if not unfit:
        return ""
    fitting = [str(size) for size in GROUPS if not any(width % size for width in widths.values())]
    fix = f"take {' or '.join(fitting)}" if fitting else "take 'bf16' as plugin.mlx.quantization"
    return f"{group_size} does not divide the model's {', '.join(unfit)}; {fix}"


def _widths(text: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name in WIDTHS:
        if isinstance(width := text.get(name), int):
            yield name, width
    heads, width = text.get("num_attention_heads"), text.get("head_dim")
    if isinstance(heads, int) and isinstance(width, int):
        yield "num_attention_heads x head_dim", heads * width


def _other_machine() -> str:
    machine = platform.machine()
    if sys.platform == "linux" or (sys.platform == "darwin" and machine == "arm64"):
        return ""
    return f"MLX runs on Apple silicon and on Linux, and this is {sys.platform} on {machine}; leave it out"


def _has_library() -> bool:
    spec = find_spec("mlx")
    places = spec.submodule_search_locations if spec else None
    return any(Path(place, "lib", "libmlx.so").is_file() for place in places or ())


def _group_faults(config: Mapping[str, Any], quantization: Sequence[str], group_size: int) -> Iterator[tuple[str, str]]:
    fault = width_fault(config, group_size)
    if fault and any(FORMATS[name].bits for name in quantization):
        yield "plugin.mlx.group_size", fault


def _model_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind, package = config.get("model_type"), "mlx_vlm" if reads_images(config) else "mlx_lm"
    known = _known_kinds(package)
    if kind and known and kind not in known:
        name = package.replace("_", "-")
        message = f"{name} does not know models of type {kind}; leave it out, or update {name}"
        yield "plugin.mlx", message
    if fault := layers_fault(config):
        yield "plugin.mlx", fault


def layers_fault(config: Mapping[str, Any]) -> str:
    """Why MLX cannot run a model of so few layers: it looks for one with full attention; empty where it can."""
    text = config.get("text_config") or config
    layers = text.get("num_hidden_layers")
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or PATTERN
    if config.get("model_type") not in PATTERNED or not isinstance(layers, int) or layers >= pattern:
        return ""
    return f"MLX runs Gemma 3 only with {pattern} layers or more, and this model has {layers}; leave it out"


def _known_kinds(package: str) -> frozenset[str]:
    """Model types that the package has a module for, or another name; read, since to import it would take seconds."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    root = Path(spec.submodule_search_locations[0])
    return frozenset([*(path.stem for path in (root / "models").iterdir()), *_other_names(root / "utils.py")])


def _other_names(module: Path) -> Iterator[str]:
    """The keys of `MODEL_REMAPPING`, in a module that is parsed and not run."""
    for statement in ast.parse(module.read_text("utf-8")).body if module.is_file() else ():
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
            continue
        if any(isinstance(name, ast.Name) and name.id == "MODEL_REMAPPING" for name in statement.targets):
            yield from (str(key.value) for key in statement.value.keys if isinstance(key, ast.Constant))
