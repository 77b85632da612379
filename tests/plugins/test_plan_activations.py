"""What a plan counts as kept for the backward pass is what autograd keeps."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from ftcore.api import Loaded
from ftcore.planning.activations import activations
from ftcore.planning.facts import ModelFacts
from ftcore.planning.measure import measure
from ftcore.planning.setting import RowShape, Setting, Sharding

ROWS, LENGTH = 2, 96
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def setting(**changes: Any) -> Setting:
    shape = RowShape(longest=LENGTH, typical=LENGTH, trained=1, typical_trained=1)
    made = Setting(
        device="cpu",
        weight=4,
        compute=4,
        autocast=False,
        micro=ROWS,
        accumulation=1,
        rows=shape,
        optimizer="adamw",
        checkpointing=False,
        attention="sdpa",
        quantization=None,
        sharding=Sharding(),
    )
    return attrs.evolve(made, **changes)


def kept(model: Any, *, autocast: bool) -> float:
    """Bytes that autograd keeps of a forward pass up to the output layer, without the parameters."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    own = {parameter.data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids, mask = torch.ones(ROWS, LENGTH, dtype=torch.int64), torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[0, LENGTH // 2 :] = 0
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with saving, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = inner.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return float(sum(storages.values()))


def llama(attention: str = "sdpa", **changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes}, attn_implementation=attention)).train()


def gemma() -> Any:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=16, attn_implementation="sdpa")).train()


def adapted(model: Any, dropout: float = 0.0) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))


def facts_of(model: Any, adapter: bool) -> ModelFacts:
    """As a sketch has them: the model is looked at before its adapter is put on."""
    loaded = Loaded(model=model, processor=None, base="")
    return measure(loaded, (lambda: attrs.evolve(loaded, model=adapted(model))) if adapter else None)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
@pytest.mark.parametrize("make", [llama, gemma], ids=["llama", "gemma"])
def test_kept_by_the_backward_pass(make: Any, adapter: bool, autocast: bool) -> None:
    model = make()
    facts = facts_of(model, adapter)
    if adapter:
        model = adapted(make())
    half = setting(autocast=autocast, compute=2 if autocast else 4)
    copies = sum(layer.weights for layer in facts.layers if layer.part == "text") * 2 if autocast else 0
    planned = activations(facts, half).kept
    assert planned == pytest.approx(kept(model, autocast=autocast) - copies, rel=0.08)


def test_eager_attention_keeps_its_weights() -> None:
    facts = facts_of(llama(), False)
    model = llama("eager")
    assert activations(facts, setting(attention="eager")).kept == pytest.approx(kept(model, autocast=False), rel=0.08)


def test_checkpointing_keeps_what_goes_into_each_layer() -> None:
    model = llama()
    facts = facts_of(model, False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = activations(facts, setting(checkpointing=True))
    assert found.kept < 0.3 * activations(facts, setting()).kept
    assert found.block > activations(facts, setting()).block


def test_layers_below_the_first_that_learns_keep_nothing() -> None:
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.2." in name
    facts = facts_of(model, False)
    assert facts.text.learning_blocks == 1
    assert activations(facts, setting()).kept == pytest.approx(kept(model, autocast=False), rel=0.12)
