"""Which type each tensor of a quantized GGUF gets, as llama.cpp's own quantizer chooses it.

Follows `llama_tensor_get_type` of llama.cpp (src/llama-quant.cpp), for the kinds of files that are written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

FILE_TYPES: Mapping[str, LlamaFileType] = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}

Type = GGMLQuantizationType
MOST: Mapping[str, Type] = {"q8_0": Type.Q8_0, "q6_k": Type.Q6_K, "q5_k_m": Type.Q5_K, "q4_k_m": Type.Q4_K}
"""The type of most tensors."""

WEIGHED = ("q6_k", "q5_k_m", "q4_k_m")
"""Those whose numbers depend on an importance matrix, if there is one."""

MIXED = ("q4_k_m", "q5_k_m")
"""Those that give more bits to what suffers most."""

NARROWER: Mapping[Type, Type] = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""For rows that no block of 256 fits: a type with blocks of 32."""

LEFT_WHOLE = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|^position_embd\.weight$|^token_types\.weight$|attn_rel_b\.weight|time_mix_(first|w[0-2]|v[0-2]|a[0-2]|g[12])\.weight"
    r"|time_mix_(decay_w[12]|lerp_fused)\.weight|indexer\.[kq]_proj\.weight"
)
"""Matrices that are small and matter, or that are none."""

VALUES = re.compile(r"attn_(v|qkv|kv_b)\.weight")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
EIGHT = 8
"""Experts beside which the attention's tensors are so small that llama.cpp spares them."""

SEVENTY = 80
"""Layers of the 70B models, which share each attn_v among eight heads and can spare it a few bits."""


@attrs.frozen(kw_only=True)
class Tensor:
    """A tensor's name, its dimensions in GGUF's order (the length of a row first), and the type it has."""

    name: str
    dimensions: tuple[int, ...]
    type: Type


@attrs.frozen(kw_only=True)
class Shape:
    """What the choice depends on beside the tensors: from the metadata of the file."""

    architecture: str
    layers: int
    experts: int = 0
    shared_heads: bool = False

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for one of the models of 70 billion parameters."""
        shared = self.shared_heads or self.architecture != "llama"
        return self.architecture in ("llama", "qwen2", "deci", "olmo") and self.layers == SEVENTY and shared


def place(name: str) -> tuple[int, str]:
    """Sorts tensors as llama.cpp does: by layer, then by name; what belongs to no layer comes first."""
    found = re.match(r"blk\.(\d+)\.", name)
    return (int(found[1]) if found else -1), name


def types(quantization: str, tensors: Iterable[Tensor], shape: Shape) -> dict[str, Type]:
    """The type of every tensor, in the order in which the file has them."""
    ordered = sorted(tensors, key=lambda tensor: place(tensor.name))
    names = [tensor.name for tensor in ordered]
    values = [name for name in names if VALUES.search(name)]
    downs = [tensor.name for tensor in ordered if "ffn_down" in tensor.name and _quantized(tensor)]
    tied = "output.weight" not in names
    chosen = {}
    for tensor in ordered:
        if not _quantized(tensor):
            chosen[tensor.name] = tensor.type
            continue
        number = _number(tensor.name, values, downs, shape)
        wanted = _wanted(quantization, tensor, number=number, values=len(values), shape=shape, tied=tied)
        chosen[tensor.name] = _fitting(wanted, tensor.dimensions[0])
    return chosen


def _quantized(tensor: Tensor) -> bool:
    matrix = any(size > 1 for size in tensor.dimensions[1:])
    return matrix and tensor.name.endswith("weight") and not LEFT_WHOLE.search(tensor.name)


def _number(name: str, values: list[str], downs: list[str], shape: Shape) -> int:
    """How many tensors of its kind come before; with experts, the layer."""
    if name in values:
        return values.index(name)
    if name in downs:
        return place(name)[0] if shape.experts > 1 else downs.index(name)
    return 0


def _wanted(quantization: str, tensor: Tensor, *, number: int, values: int, shape: Shape, tied: bool) -> Type:
    """The type without regard to the length of its rows, but for the output's."""
    most, name = MOST[quantization], tensor.name
    if name == "output.weight" or (tied and name in EMBEDDINGS):
        fits = tensor.dimensions[0] % GGML_QUANT_SIZES[most][0] == 0
        return Type.Q6_K if fits and most is not Type.Q8_0 else Type.Q8_0
    if VALUES.search(name):
        return _of_values(quantization, number, values, shape)
    if "attn_k.weight" in name:
        return Type.Q8_0 if shape.experts == EIGHT else most
    if "ffn_down" in name:
        return Type.Q6_K if quantization in MIXED and _more_bits(number, shape.layers) else most
    if "attn_output.weight" in name and shape.experts == EIGHT and quantization == "q4_k_m":
        return Type.Q5_K
    return most


def _of_values(quantization: str, number: int, values: int, shape: Shape) -> Type:
    if shape.experts == EIGHT:
        return Type.Q8_0
    if quantization in MIXED and _more_bits(number, values):
        return Type.Q6_K
    return Type.Q5_K if shape.is_70b and MOST[quantization] is Type.Q4_K else MOST[quantization]


def _more_bits(number: int, count: int) -> bool:
    """The first eighth, the last, and every third between them."""
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2  # noqa: PLR2004


def _fitting(wanted: Type, row: int) -> Type:
    if row % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    narrower = NARROWER.get(wanted, wanted)
    return narrower if row % GGML_QUANT_SIZES[narrower][0] == 0 else Type.F16
