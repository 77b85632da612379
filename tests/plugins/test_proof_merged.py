"""The merged folder is proved by plain transformers, and what breaks silently elsewhere fails its proof."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcore.api import Artifact, Proof, Verdict
from ftcore_plugins.common.proof.reference import read_reference
from ftcore_plugins.common.proof.verdict import whole_gate
from ftcore_plugins.merge import Merge, Options
from ftcore_plugins.merge.proving import gate, is_merged
from proof_kit import Shipped, adapted, edit, merged_of, proof_of, ship
from tiny_kit import Tiny, make_run

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def shipped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    return ship(tiny, tmp_path_factory.mktemp("shipped"), rope_parameters=LLAMA3)


def verify(path: Path, reference: Path, kind: str = "merged") -> Proof | None:
    return Merge(Options()).verify(make_run(path.parent), Artifact(kind=kind, path=path), reference)


def test_a_good_folder_is_proved_in_a_process_of_its_own(shipped: Shipped) -> None:
    proof = verify(shipped.merged, shipped.reference)
    assert proof is not None
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["kl_mean"] < 1e-9
    assert (proof.figures["top1_agreement"], proof.figures["positions"]) == (1.0, 48)
    limit = gate(shipped.merged, shipped.reference).kl_mean
    assert 1e-5 <= limit < 5e-3
    assert proof.note == f"float32, gate {limit:.2g} on kl_mean"
    assert proof_of(shipped.merged, shipped.reference).verdict is Verdict.PROVED


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_weights_have_a_gate_of_their_own(shipped: Shipped, tmp_path: Path, dtype: str) -> None:
    def rounded(folder: Path) -> None:
        change(folder, lambda name, weight: weight.to(getattr(torch, dtype)))
        edit(folder / "config.json", dtype=dtype)

    proof = shipped.broken(tmp_path / "merged", rounded)
    assert proof.verdict is Verdict.PROVED
    limit = whole_gate(dtype, exact=True, sensitivity=read_reference(shipped.reference).sensitivity).kl_mean
    assert proof.note == f"{dtype}, gate {limit:.2g} on kl_mean"
    assert 1e-9 < proof.figures["kl_mean"] < limit / 2


# Negative controls


def change(folder: Path, new: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name: new(name, weight).contiguous() for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"}
    )


def failed(proof: Proof, reason: str) -> None:
    assert proof.verdict is Verdict.FAILED
    assert reason in proof.note
    assert "\n" not in proof.note


def test_a_swapped_adapter(tiny: Tiny, shipped: Shipped, tmp_path: Path) -> None:
    other = adapted(tiny.load(shipped.run).model, 2)
    proof = proof_of(merged_of(other, tiny.tokenizer, tmp_path / "merged"), shipped.reference)
    failed(proof, "its answers differ from the tuned model's, gate ")


def test_an_adapter_with_the_sign_of_one_layer_flipped(tiny: Tiny, shipped: Shipped, tmp_path: Path) -> None:
    other = adapted(tiny.load(shipped.run).model, 1)
    name = next(name for name, _ in other.named_parameters() if "v_proj.lora_B" in name)
    other.get_parameter(name).data.neg_()
    proof = proof_of(merged_of(other, tiny.tokenizer, tmp_path / "merged"), shipped.reference)
    failed(proof, "its answers differ")


def test_lost_rope_scaling(shipped: Shipped, tmp_path: Path) -> None:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    proof = shipped.broken(tmp_path / "merged", lambda folder: edit(folder / "config.json", rope_parameters=plain))
    failed(proof, "its answers differ")
    assert proof.figures["kl_mean"] > 5e-3  # also where the gate is the wide one


@pytest.mark.parametrize(
    "template",
    ["{{ bos_token }}{{ messages[0]['content'] }}", "{{ raise_exception('no') }}", "{% for %}"],
)
def test_a_wrong_chat_template(shipped: Shipped, tmp_path: Path, template: str) -> None:
    proof = shipped.broken(tmp_path / "merged", lambda folder: write(folder / "chat_template.jinja", template))
    failed(proof, "chat template" if "bos" in template else "it loads, and does not answer")


def test_a_lost_chat_template(shipped: Shipped, tmp_path: Path) -> None:
    proof = shipped.broken(tmp_path / "merged", lambda folder: (folder / "chat_template.jinja").unlink())
    failed(proof, "chat_template is not set")


def test_lost_added_tokens(shipped: Shipped, tmp_path: Path) -> None:
    def without(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        document["added_tokens"] = [
            token for token in document["added_tokens"] if token["content"] != "<|start_header_id|>"
        ]
        edit(folder / "tokenizer.json", **document)
        edit(folder / "tokenizer_config.json", extra_special_tokens=None, added_tokens_decoder=None)

    failed(shipped.broken(tmp_path / "merged", without), "<|start_header_id|>")


def test_a_truncated_file(shipped: Shipped, tmp_path: Path) -> None:
    for size in (100, 5000):
        proof = shipped.broken(tmp_path / str(size), lambda folder, size=size: cut(folder / WEIGHTS, size))
        failed(proof, "it does not load: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_holds_no_number(shipped: Shipped, tmp_path: Path, value: float) -> None:
    """One of a token that no probe has."""

    def poison(name: str, weight: torch.Tensor) -> torch.Tensor:
        if name == "model.embed_tokens.weight":
            weight[7, 3] = value
        return weight

    proof = shipped.broken(tmp_path / "merged", lambda folder: change(folder, poison))
    failed(proof, "model.embed_tokens.weight holds what is no number (NaN)")


def test_a_tensor_that_is_not_there(shipped: Shipped, tmp_path: Path) -> None:
    def drop(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        del weights["model.layers.1.self_attn.k_proj.weight"]
        save_file(weights, folder / WEIGHTS, {"format": "pt"})

    proof = shipped.broken(tmp_path / "merged", drop)
    failed(proof, "it has no weights for model.layers.1.self_attn.k_proj.weight")


def test_another_tokenizer(shipped: Shipped, tmp_path: Path) -> None:
    def fewer_merges(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        document["model"]["merges"] = document["model"]["merges"][:5]
        edit(folder / "tokenizer.json", **document)

    failed(shipped.broken(tmp_path / "merged", fewer_merges), "apart into other tokens")


def test_another_vocabulary(shipped: Shipped, tmp_path: Path) -> None:
    def smaller(folder: Path) -> None:
        wide = ("model.embed_tokens.weight", "lm_head.weight")
        change(folder, lambda name, weight: weight[:-2] if name in wide else weight)
        size = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
        edit(folder / "config.json", vocab_size=size - 2)

    failed(shipped.broken(tmp_path / "merged", smaller), "it has 339 tokens, and the tuned model 341")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


# Which folders are ours


def test_other_kinds_are_left_to_others(shipped: Shipped, tmp_path: Path) -> None:
    assert verify(shipped.merged, shipped.reference, "gguf") is None
    for path in (tmp_path, tmp_path / "gone", shipped.merged / WEIGHTS):
        assert verify(path, shipped.reference, "") is None
    written, quantized = tmp_path / "mlx", tmp_path / "mlx-4"
    for folder, found, config in ((written, "mlx", {}), (quantized, "pt", {"quantization": {"bits": 4}})):
        folder.mkdir()
        write(folder / "config.json", json.dumps(config))
        save_file({"a": torch.ones(1)}, folder / WEIGHTS, {"format": found})
        assert verify(folder, shipped.reference, "") is None


def test_a_foreign_folder_is_known_by_its_looks(shipped: Shipped, tmp_path: Path) -> None:
    """One that is broken is not just passed over."""
    assert is_merged(Artifact(kind="", path=shipped.merged))
    write(tmp_path / "config.json", '{"model_type": "llama"}')
    write(tmp_path / WEIGHTS, "torn")
    assert is_merged(Artifact(kind="", path=tmp_path))
    failed(proof_of(tmp_path, shipped.reference), "it does not load")
