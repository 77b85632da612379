"""Counting a model by what its modules have."""

from __future__ import annotations

from typing import Any

import pytest

from ftcore.errors import RunError
from ftcore.planning.facts import Part
from ftcore.planning.layers import grouped, inspected
from ftcore.planning.measure import measure
from ftcore.values import Loaded, Quantization
from planned_models import Linear, Module, adapt, facts, model, shape_of

BLOCK = 2 * 64 * 64 + 3 * 64 * 256
MODEL = 2 * (BLOCK + 2 * 64) + 100 * 64
ADAPTER = 2 * 4 * (2 * (64 + 64) + 3 * (64 + 256))


def test_tied_weights_count_once() -> None:
    assert facts().base == MODEL
    assert facts(tied=False).base == MODEL + 100 * 64


def test_whole_model_is_trained_without_an_adapter() -> None:
    found = facts()
    assert (found.trained, found.trained_base, found.added, found.frozen) == (MODEL, MODEL, 0, 0)


def test_adapter_is_what_was_not_there_before() -> None:
    found = facts(rank=4)
    assert (found.total, found.base, found.added, found.trained) == (MODEL + ADAPTER, MODEL, ADAPTER, ADAPTER)
    layer = next(layer for layer in found.layers if layer.name == "layers.1.mlp.up_proj")
    assert (layer.rank, layer.adapter, layer.block, layer.trained) == (4, 4 * (64 + 256), 1, False)


def test_adapter_of_a_rank_as_large_as_its_layer_is_no_copy() -> None:
    layer = next(layer for layer in facts(rank=64).layers if layer.name == "layers.0.self_attn.q_proj")
    assert (layer.rank, layer.adapter, layer.trained) == (64, 64 * (64 + 64), False)


def test_output_layer_is_told_from_the_others() -> None:
    assert [layer.name for layer in facts().linear(Part.OUTPUT)] == ["lm_head"]


def test_copy_that_is_trained_whole() -> None:
    loaded = Loaded(model=model(tied=False), processor=None, base="")

    def save() -> Any:
        adapt(loaded.model)
        loaded.model.parts["lm_head"] = Module(original_module=loaded.model.lm_head, copy=Linear(64, 100))
        return loaded

    found = measure(loaded, save)
    (output,) = found.linear(Part.OUTPUT)
    assert (output.trained, output.rank, found.trained) == (True, 0, ADAPTER + 6400)


def test_first_layer_that_a_gradient_must_reach() -> None:
    drawn = model()
    for parameter in drawn.parameters():
        parameter.requires_grad = False
    drawn.layers.parts["1"].mlp.down_proj.weight.requires_grad = True
    found = measure(Loaded(model=drawn, processor=None, base=""))
    assert (found.text.blocks, found.text.learns_from, found.text.learning_blocks) == (2, 1, 1)


def test_shapes_come_from_the_configuration() -> None:
    text = facts(num_key_value_heads=2, head_dim=32).text
    assert (text.width, text.inner, text.queries, text.keys, text.norms, text.gated) == (64, 256, 128, 64, 2, True)


def test_configuration_without_a_shape_is_named() -> None:
    config = shape_of(model_type="odd")
    del config.num_hidden_layers
    drawn = model()
    drawn.config = config
    with pytest.raises(RunError, match=r"this model \(odd\) has no num_hidden_layers"):
        measure(Loaded(model=drawn, processor=None, base=""))


def test_groups_of_layers() -> None:
    quantization = Quantization(name="nf4", options={}, bytes_per_weight=0.5, left_out=("layers.0",))
    found = grouped(facts(rank=4), quantization)
    assert ("layers.*.mlp.up_proj", 1, True) in [(group.name, group.count, group.quantized) for group in found]
    assert ("lm_head", 1, False) in [(group.name, group.count, group.quantized) for group in found]
    whole = [group for group in grouped(facts(rank=4), None) if group.name == "layers.*.mlp.up_proj"]
    assert [(group.count, group.inputs, group.outputs, group.adapter) for group in whole] == [(2, 64, 256, 2 * 4 * 320)]


def test_json_has_what_stays_stable() -> None:
    found = inspected(facts(rank=4), None)
    assert found["parameters"]["total"] == MODEL + ADAPTER
    assert found["parameters"]["trainable"] == ADAPTER
    assert len(found["layers"]) == 6
