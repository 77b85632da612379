"""Quantized GGUFs are, byte by byte, those that llama.cpp's own quantizer writes."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xllamacpp")

from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, LlamaFileType

from ftcore.api import RunError
from ftcore_plugins.gguf.quantization.mixture import FILE_TYPES, MOST, Shape, Tensor, place, types
from ftcore_plugins.gguf.quantization.quantize import quantize
from gguf_random import CASES, importance, named, random_gguf

RECORDED: Mapping[str, str] = json.loads(Path(__file__).with_name("gguf_hashes.json").read_text())
"""Made by gguf_hashes.py with llama.cpp itself."""

WIDE = 256
"""Rows that K-quants fit: with an importance matrix, they take a second each."""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="other processors round otherwise")
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=pytest.mark.slow if case[1] == WIDE else ()) for case in CASES]
)
def test_files_are_those_of_llama_cpp(tmp_path: Path, case: tuple[str, int, str]) -> None:
    source = random_gguf(tmp_path / "source.gguf", *case)
    for quantization in MOST:
        for weights in (None, importance(source)):
            quantize(source, tmp_path / "made.gguf", quantization, weights)
            found = hashlib.sha256((tmp_path / "made.gguf").read_bytes()).hexdigest()
            assert found == RECORDED[named(*case, quantization, weights is not None)]


def test_threads_and_slabs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random_gguf(tmp_path / "source.gguf", "llama", layers=1)
    quantize(source, tmp_path / "one.gguf", "q4_k_m")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("ftcore_plugins.gguf.quantization.quantize.SLAB", 1024)
    quantize(source, tmp_path / "three.gguf", "q4_k_m")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


def test_metadata_says_what_it_is(tmp_path: Path) -> None:
    source = random_gguf(tmp_path / "source.gguf", "llama", layers=1)
    for quantization in MOST:
        quantize(source, tmp_path / "made.gguf", quantization)
        fields = GGUFReader(tmp_path / "made.gguf").fields
        assert fields["general.file_type"].contents() == FILE_TYPES[quantization]
        assert fields["general.quantization_version"].contents() == 2
        assert fields["llama.context_length"].contents() == 512
    assert FILE_TYPES["q4_k_m"] is LlamaFileType.MOSTLY_Q4_K_M


# What the files recorded above do not have, after llama.cpp's rules


def chosen(quantization: str, name: str, shape: Shape, *others: str, row: int = 256) -> Type:
    tensors = [Tensor(name=each, dimensions=(row, 256), type=Type.F16) for each in ("output.weight", *others, name)]
    return types(quantization, tensors, shape)[name]


def test_with_eight_experts_attention_is_spared() -> None:
    mixtral = Shape(architecture="llama", layers=8, experts=8, shared_heads=True)
    assert chosen("q4_k_m", "blk.3.attn_v.weight", mixtral) is Type.Q8_0
    assert chosen("q4_k_m", "blk.3.attn_k.weight", mixtral) is Type.Q8_0
    assert chosen("q4_k_m", "blk.3.attn_output.weight", mixtral) is Type.Q5_K
    assert chosen("q5_k_m", "blk.3.attn_output.weight", mixtral) is Type.Q5_K
    assert chosen("q4_k_m", "blk.3.ffn_gate_inp.weight", mixtral) is Type.F16
    # Of experts, the layer counts, and not how many tensors came before.
    assert chosen("q4_k_m", "blk.7.ffn_down_exps.weight", mixtral) is Type.Q6_K
    assert chosen("q4_k_m", "blk.4.ffn_down_exps.weight", mixtral) is Type.Q4_K


def test_the_seventy_billion_get_more_for_what_they_share() -> None:
    values = [f"blk.{number}.attn_v.weight" for number in range(80)]
    shape = Shape(architecture="llama", layers=80, shared_heads=True)
    assert chosen("q4_k_m", values[10], shape, *values) is Type.Q5_K
    assert chosen("q4_k_m", values[0], shape, *values) is Type.Q6_K
    alone = Shape(architecture="llama", layers=80, shared_heads=False)
    assert chosen("q4_k_m", values[10], alone, *values) is Type.Q4_K


def test_tied_words_are_quantized_as_the_output() -> None:
    shape = Shape(architecture="gemma3", layers=1)
    words = Tensor(name="token_embd.weight", dimensions=(256, 99), type=Type.F16)
    assert types("q4_k_m", [words], shape) == {"token_embd.weight": Type.Q6_K}
    assert types("q8_0", [words], shape) == {"token_embd.weight": Type.Q8_0}


def test_vectors_and_single_rows_stay_whole() -> None:
    shape = Shape(architecture="llama", layers=1)
    for dimensions in ((256,), (256, 1)):
        norm = Tensor(name="blk.0.some.weight", dimensions=dimensions, type=Type.F32)
        assert types("q8_0", [norm], shape) == {"blk.0.some.weight": Type.F32}


def test_tensors_are_ordered_by_layer_and_name() -> None:
    names = ["blk.10.b.weight", "blk.2.b.weight", "output.weight", "blk.2.a.weight"]
    assert sorted(names, key=place) == ["output.weight", "blk.2.a.weight", "blk.2.b.weight", "blk.10.b.weight"]


# Bad input


def test_weights_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = random_gguf(tmp_path / "source.gguf", "llama", layers=1)
    tensor = next(each for each in GGUFReader(source).tensors if each.name == "blk.0.ffn_up.weight")
    data = bytearray(source.read_bytes())
    data[tensor.data_offset : tensor.data_offset + 2] = np.float16(np.nan).tobytes()
    source.write_bytes(data)
    with pytest.raises(RunError, match=r"blk\.0\.ffn_up\.weight has weights that are no finite numbers"):
        quantize(source, tmp_path / "made.gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_an_importance_of_another_model_is_refused(tmp_path: Path) -> None:
    source = random_gguf(tmp_path / "source.gguf", "llama", layers=1)
    with pytest.raises(RunError, match=r"has 7 columns for blk\.0\.ffn_up\.weight, which has 256"):
        quantize(source, tmp_path / "made.gguf", "q4_k_m", {"blk.0.ffn_up.weight": np.ones(7, np.float32)})
