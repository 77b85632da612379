"""Writes an adapter alone as GGUF, to be loaded beside a GGUF of the base model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from gguf import GGMLQuantizationType, GGUFType, GGUFWriter, Keys, TensorNameMap

from ftcore.api import RunError
from ftcore_plugins.gguf.conversion.architectures import has_shape, is_of_vision, plain_name, shape_of, tensor_names
from ftcore_plugins.gguf.conversion.convert import mapped, rotated, scale, tensor_map
from ftcore_plugins.gguf.conversion.settings import Settings, read_settings
from ftcore_plugins.gguf.conversion.weights import TYPES, Stored, Weight, read_file
from ftcore_plugins.gguf.conversion.writing import write_file
from ftcore_plugins.gguf.quantization.mixture import FILE_TYPES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PART = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
IN_THE_WAY = {
    "use_dora": "DoRA, which a LoRA in GGUF cannot hold",
    "lora_bias": "biases beside the adapter's matrices, which a LoRA in GGUF cannot hold",
    "modules_to_save": "layers that were trained whole, which a LoRA in GGUF cannot hold",
    "trainable_token_indices": "tokens that were trained whole, which a LoRA in GGUF cannot hold",
    "fan_in_fan_out": "matrices stored the other way round, which no known architecture has",
}


@attrs.frozen(kw_only=True)
class Pair:
    """The two matrices that are added to one of the base: A [rank, columns], B [rows, rank]."""

    module: str
    a: Stored
    b: Stored

    @property
    def rank(self) -> int:
        """Columns of B and rows of A."""
        return self.a.shape[0]


@attrs.frozen(kw_only=True, eq=False)
class Place:
    """The base model that pairs are for: its settings and tensors, and how much of a pair is added to it.

    The runtime multiplies every pair with `alpha` / rank, with the same alpha for all.
    """

    settings: Settings
    names: TensorNameMap
    known: frozenset[str]
    config: Mapping[str, Any]
    alpha: float

    def weights(self, pair: Pair, dtype: GGMLQuantizationType) -> Iterator[Weight]:
        """Both matrices as they are written."""
        name = plain_name(f"{pair.module}.weight")
        if is_of_vision(name):
            raise RunError(f"gguf: the adapter changes {pair.module}, a LoRA in GGUF only text; ship the merged model")
        if name not in self.known:
            raise RunError(f"gguf: the adapter changes {pair.module}, which the base model has not; is it another's?")
        shape, wanted = (pair.b.shape[0], pair.a.shape[-1]), shape_of(name, self.settings.values)
        if not has_shape(shape, wanted) or pair.b.shape[1:] != pair.a.shape[:1]:
            raise RunError(f"gguf: the adapter of {pair.module} does not fit the base model's; is it another's?")
        factor = _scaling(self.config, pair.module, pair.rank) * pair.rank / self.alpha
        written = mapped(name, self.names)
        yield Weight(name=f"{written}.lora_a", numbers=pair.a, dtype=dtype)
        yield Weight(
            name=f"{written}.lora_b",
            numbers=pair.b,
            dtype=dtype,
            rotated=rotated(name, self.settings),
            scale=factor * scale(name, self.settings),
        )


def convert_lora(saved: Path, base: Path, target: Path, dtype: Literal["f32", "f16", "bf16"]) -> None:
    """Write the adapter in the folder `saved`, for the model whose `config.json` lies in `base`, to `target`.

    Raises `RunError` where the adapter is more than LoRA, is of another model, or `target` cannot be written.
    """
    settings, config = read_settings(base), _read(saved / CONFIG)
    fault = next((what for name, what in IN_THE_WAY.items() if config.get(name)), "")
    if fault:
        raise RunError(f"gguf: the adapter has {fault}; leave plugin.gguf.lora out and ship the merged model")
    alpha = _scaling(config, "", int(config["r"])) * config["r"]
    place = Place(
        settings=settings,
        names=tensor_map(settings),
        known=frozenset(tensor_names(settings.architecture, settings.values)),
        config=config,
        alpha=alpha,
    )
    weights = [weight for pair in _pairs(saved) for weight in place.weights(pair, TYPES[dtype])]
    writer = GGUFWriter(None, settings.architecture.name)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
    writer.add_file_type(FILE_TYPES[dtype])
    write_file(target, writer, weights)


def base_of(saved: Path) -> tuple[str, str]:
    """The folder or the id of the model that a saved adapter is for, and its revision; empty where it names none."""
    config = _read(saved / CONFIG)
    return str(config.get("base_model_name_or_path") or ""), str(config.get("revision") or "")


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies the product of the two matrices with."""
    patterns = (config.get("alpha_pattern") or {}).items()
    own = (alpha for pattern, alpha in patterns if re.fullmatch(rf"(.*\.)?({pattern})", module))
    alpha = float(next(own, config["lora_alpha"]))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _pairs(saved: Path) -> Iterator[Pair]:
    parts: dict[str, dict[str, Stored]] = {}
    for name, stored in read_file(saved / WEIGHTS).items():
        if name.endswith(".base_layer.weight"):  # the base's own, which PEFT saves beside what it adds to words
            continue
        found = PART.fullmatch(name)
        if found is None:
            raise RunError(f"gguf: {name} in {saved / WEIGHTS} is no part of a LoRA; ship the merged model")
        parts.setdefault(found["module"], {})[found["part"]] = stored
    if not parts:
        raise RunError(f"gguf: {saved / WEIGHTS} is empty; train an adapter first")
    for module, pair in parts.items():
        if len(pair) == 1:
            raise RunError(f"gguf: {saved / WEIGHTS} has only half of the adapter of {module}; save it again")
        yield Pair(module=module, a=pair["A"], b=pair["B"])


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = dict(json.loads(path.read_text("utf-8")))
        if found.get("peft_type", "LORA") != "LORA" or not {"r", "lora_alpha"} <= found.keys():
            raise RunError(f"gguf: {path} is no LoRA's; only those can be written alone")
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"gguf: {path} cannot be read ({error}); plugin.gguf.lora needs an adapter") from error
    return found
