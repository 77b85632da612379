"""Writes what lets a Gemma 3 see, its SigLIP tower and the projection of image tokens, as llama.cpp's mmproj file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from gguf import MODEL_ARCH, GGUFType, GGUFWriter, VisionProjectorType, get_tensor_name_map

from ftcore.api import RunError
from ftcore_plugins.gguf.conversion.architectures import is_of_vision, name_of
from ftcore_plugins.gguf.conversion.settings import read_config
from ftcore_plugins.gguf.conversion.weights import TYPES, Stored, Weight, read_tensors
from ftcore_plugins.gguf.conversion.writing import describe, write_file

SEES = "Gemma3ForConditionalGeneration"
POOLED = 4
"""Patches along the side of an image token, unless a file says otherwise."""

COUNTS = {
    "image_size": "add_vision_image_size",
    "patch_size": "add_vision_patch_size",
    "hidden_size": "add_vision_embedding_length",
    "intermediate_size": "add_vision_feed_forward_length",
    "num_hidden_layers": "add_vision_block_count",
    "num_attention_heads": "add_vision_head_count",
}
LAYER = (
    *(f"self_attn.{part}_proj.{kind}" for part in ("q", "k", "v", "out") for kind in ("weight", "bias")),
    *(f"{part}.{kind}" for part in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")),
)
AROUND = (
    "embeddings.patch_embedding.weight",
    "embeddings.patch_embedding.bias",
    "embeddings.position_embedding.weight",
    "post_layernorm.weight",
    "post_layernorm.bias",
)
PROJECTION, PROJECTION_NORM = (
    f"multi_modal_projector.{name}" for name in ("mm_input_projection.weight", "mm_soft_emb_norm.weight")
)


def convert_vision(merged: Path, target: Path, dtype: Literal["f32", "f16", "bf16"]) -> bool:
    """Write the part of the model in `merged` that sees to the file `target`; False where there is none.

    Raises `RunError` as `convert` does.
    """
    config = read_config(merged)
    if name_of(config) != SEES:
        return False
    vision = {"layer_norm_eps": 1e-6, **(config.get("vision_config") or {})}
    missing = [name for name in COUNTS if name not in vision]
    if missing:
        raise RunError(f"gguf: {merged / 'config.json'} lacks vision_config.{missing[0]}; merge the model again")
    weights = list(_weights(vision, read_tensors(merged), dtype))
    writer = GGUFWriter(None, "clip")
    writer.add_type(GGUFType.MMPROJ)
    describe(writer, merged, weights, dtype)
    _write_settings(writer, config, vision, _image_processor(merged))
    write_file(target, writer, weights)
    return True


def _weights(vision: Mapping[str, Any], tensors: Mapping[str, Stored], dtype: str) -> Iterator[Weight]:
    found = {_plain_name(name): stored for name, stored in tensors.items() if is_of_vision(name)}
    wanted = list(_names(vision["num_hidden_layers"]))
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted and ".vision_model.head." not in name]
    for odd, fault in ((missing, "the model has no"), (unknown, "llama.cpp's Gemma 3 has no place for")):
        if odd:
            raise RunError(f"gguf: {fault} {odd[0]}; config.json is of another model")
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, vision["num_hidden_layers"])
    for name in wanted:
        yield Weight(
            name=str(names.get_name(name, try_suffixes=(".weight", ".bias"))),
            numbers=found[name],
            dtype=TYPES[_type_of(name, found[name], dtype)],
            shift=1.0 if name == PROJECTION_NORM else 0.0,
        )


def _type_of(name: str, stored: Stored, dtype: str) -> str:
    if len(stored.shape) == 1 or ".embeddings." in name:
        return "f32"
    # The runtime transposes it, which it can do with this type only.
    return "f16" if name == PROJECTION else dtype


def _names(layers: int) -> Iterator[str]:
    for name in AROUND:
        yield f"vision_tower.vision_model.{name}"
    for number in range(layers):
        for name in LAYER:
            yield f"vision_tower.vision_model.encoder.layers.{number}.{name}"
    yield PROJECTION
    yield PROJECTION_NORM


def _plain_name(name: str) -> str:
    """As on the hub, however transformers nests it."""
    name = name.removeprefix("model.").replace("_weight", ".weight")
    inner = name.removeprefix("vision_tower.")
    return name if inner == name or inner.startswith("vision_model.") else f"vision_tower.vision_model.{inner}"


def _write_settings(
    writer: GGUFWriter, config: Mapping[str, Any], vision: Mapping[str, Any], processor: Mapping[str, Any]
) -> None:
    for name, add in COUNTS.items():
        getattr(writer, add)(vision[name])
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(VisionProjectorType.GEMMA3)
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_attention_layernorm_eps(vision["layer_norm_eps"])
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_mean(processor["image_mean"])
    writer.add_vision_image_std(processor["image_std"])
    side = int(config.get("mm_tokens_per_image", 256) ** 0.5)
    pooled = vision["image_size"] // vision["patch_size"] // side
    if pooled != POOLED:
        writer.add_vision_projector_scale_factor(pooled)


def _image_processor(folder: Path) -> Mapping[str, Any]:
    """How images are prepared, in transformers' older and newer place for it."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        try:
            found = json.loads((folder / name).read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise RunError(f"gguf: {folder / name} cannot be read ({error}); merge the model again") from error
        found = found.get("image_processor", found)
        if "image_mean" in found and "image_std" in found:
            return dict(found)
    raise RunError(f"gguf: {folder} has no processor_config.json with image_mean; merge the model again")
