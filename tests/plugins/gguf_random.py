"""GGUFs of random weights: enough for a quantizer, not to run. Needs nothing of ftcore."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

CASES = (
    ("llama", 256, "f16"),
    ("llama", 256, "bf16"),
    ("llama", 96, "f32"),
    ("gemma3", 256, "f16"),
    ("qwen2", 48, "f16"),
)
"""Architecture, hidden size and type of the weights. Rows of 96 fit no block of 256, and rows of 48 none of 32."""

FILE_TYPES = {"q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}
"""Numbers of llama.h."""


def random_gguf(path: Path, architecture: str, hidden: int = 256, bits: str = "f16", layers: int = 9) -> Path:
    """Nine layers, so that each rule about layers has a case; the numbers are numpy's, alike on every machine."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(96)
    writer.add_sliding_window(128)
    writer.add_file_type(1)
    writer.add_quantization_version(2)
    random = np.random.default_rng(0)
    for name, shape in _shapes(architecture, layers, hidden).items():
        numbers = (0.05 * random.standard_normal(shape)).astype(np.float32)
        if len(shape) == 1 or bits == "f32":
            writer.add_tensor(name, numbers)
        elif bits == "bf16":
            rounded = (numbers.view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(name, rounded.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, numbers.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def importance(source: Path) -> Mapping[str, np.ndarray]:
    """Some for every matrix of a layer."""
    random = np.random.default_rng(1)
    tensors = [
        tensor for tensor in GGUFReader(source).tensors if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    ]
    return {each.name: (random.random(int(each.shape[0])) + 0.01).astype(np.float32) for each in tensors}


def named(architecture: str, hidden: int, bits: str, quantization: str, weighted: bool) -> str:
    """What a case is called."""
    return f"{architecture} {hidden} {bits} {quantization}{' imatrix' if weighted else ''}"


def _shapes(architecture: str, layers: int, hidden: int) -> Mapping[str, tuple[int, ...]]:
    of_layer = {
        "attn_q.weight": (hidden, hidden),
        "attn_k.weight": (hidden // 2, hidden),
        "attn_v.weight": (hidden // 2, hidden),
        "attn_output.weight": (hidden, hidden),
        "ffn_gate.weight": (2 * hidden, hidden),
        "ffn_up.weight": (2 * hidden, hidden),
        "ffn_down.weight": (hidden, 2 * hidden),
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
    }
    ends: dict[str, tuple[int, ...]] = {"token_embd.weight": (96, hidden), "output_norm.weight": (hidden,)}
    if architecture == "llama":  # the others have no output layer of their own
        ends["output.weight"] = (96, hidden)
    return {**ends, **{f"blk.{number}.{name}": shape for number in range(layers) for name, shape in of_layer.items()}}
