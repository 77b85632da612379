"""The importance matrix: mean squares of what columns are multiplied with, and better K-quants by it."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

import qlora_kit

pytest.importorskip("xllamacpp")

from gguf import GGUFReader

from ftcore.api import RunError
from ftcore_plugins.gguf.conversion.convert import convert
from ftcore_plugins.gguf.quantization.imatrix import _linear, _spread, importance
from ftcore_plugins.gguf.quantization.quantize import quantize
from gguf_kit import Tuned, tune
from tiny_kit import Tiny


@pytest.fixture(scope="module")
def tuned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(tiny, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def source(tuned: Tuned) -> Path:
    convert(tuned.merged().folder, tuned.exports / "source-f16.gguf", "f16")
    return tuned.exports / "source-f16.gguf"


def test_it_is_the_mean_square_of_what_each_layer_is_given(tuned: Tuned, source: Path) -> None:
    found = importance(source, tuned.loaded.model, tuned.data, rows=3)
    seen: list[torch.Tensor] = []
    model = tuned.loaded.model
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()[0]))
    model.eval()
    for example in _spread(tuned.data.train, 3):
        with torch.no_grad():
            model(input_ids=torch.tensor([example.input_ids]))
    hook.remove()
    wanted = torch.cat(seen).double().square().mean(0).numpy()
    np.testing.assert_allclose(found["blk.1.ffn_down.weight"], wanted, rtol=1e-5)


def test_every_matrix_of_a_layer_has_one_as_wide_as_its_rows(tuned: Tuned, source: Path) -> None:
    found = importance(source, tuned.loaded.model, tuned.data, rows=1)
    matrices = [each for each in GGUFReader(source).tensors if each.name.startswith("blk.") and len(each.shape) > 1]
    assert {name: values.size for name, values in found.items()} == {each.name: each.shape[0] for each in matrices}


def test_layers_are_named_as_without_an_adapter(tiny: Tiny, tuned: Tuned) -> None:
    plain = tiny.load(tuned.run).model
    names = {name for name, _ in _linear(plain)}
    assert "model.layers.0.self_attn.q_proj" in names
    assert {name for name, _ in _linear(tuned.loaded.model)} == names


def test_quantized_layers_count_too(tiny: Tiny, tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = qlora_kit.load(tiny, qlora_kit.run_of(tiny, tmp_path))
    assert {name for name, _ in _linear(loaded.model)} == {name for name, _ in _linear(tuned.loaded.model)}


def test_the_model_is_left_alone(tuned: Tuned, source: Path) -> None:
    model = tuned.loaded.model.train()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    importance(source, model, tuned.data, rows=2)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rows_are_spread_over_all(tuned: Tuned) -> None:
    train = tuned.data.train
    assert [train.index(example) for example in _spread(train, 3)] == [0, 7, 14]
    assert len(list(_spread(train, 1000))) == len(train)


def test_it_makes_better_files(tuned: Tuned, tmp_path: Path) -> None:
    figures = {}
    for rows in (0, 21):
        made = tuned.export("q4_k_m", "q5_k_m", exports=tmp_path / str(rows), imatrix=rows, modelfile=False)
        told = [artifact.details.get("importance matrix", "") for artifact in made]
        assert told == ([f"{min(rows, len(tuned.data.train))} rows"] * 2 if rows else ["", ""])
        figures[rows] = [tuned.prove_file(artifact.path).figures["kl_mean"] for artifact in made]
    assert sum(figures[21]) < sum(figures[0])


def test_a_file_that_does_not_use_it_does_not_name_it(tuned: Tuned, tmp_path: Path) -> None:
    made = tuned.export("f16", "q8_0", exports=tmp_path, imatrix=1, modelfile=False)
    assert not any("importance matrix" in artifact.details for artifact in made)


def test_only_quantized_files_change(tuned: Tuned, source: Path, tmp_path: Path) -> None:
    weights = importance(source, tuned.loaded.model, tuned.data, rows=1)
    for quantization, changes in (("q8_0", False), ("q4_k_m", True)):
        quantize(source, tmp_path / "with.gguf", quantization, weights)
        quantize(source, tmp_path / "without.gguf", quantization)
        same = (tmp_path / "with.gguf").read_bytes() == (tmp_path / "without.gguf").read_bytes()
        assert same is not changes


def test_a_model_without_known_layers_is_refused(tuned: Tuned, source: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(RunError, match=r"plugin\.gguf\.imatrix: no layer of this model is known"):
        importance(source, other, attrs.evolve(tuned.data), rows=1)
