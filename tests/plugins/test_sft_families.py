"""Logits at trained positions only give every family the loss and the gradients of its full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from ftcore.api import MASKED
from ftcore_plugins.sft.labelled import LabelledLoss

VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FEW_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 5.0, "sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "phi3": {},
    "phi": {},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.2},
    "cohere2": {"logit_scale": 0.2},
    "stablelm": {},
    "starcoder2": {},
    "smollm3": {},
    "glm4": {},
    "helium": {},
    "gpt_neox": {},
    "gpt2": GPT,
    "falcon": {"head_dim": None},  # a figure that its config derives
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": FEW_EXPERTS,
    "qwen3_moe": FEW_EXPERTS,
    "granitemoe": FEW_EXPERTS,
}


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    values = {name: value for name, value in {**SHAPE, **FAMILIES[family]}.items() if value is not None}
    config = AutoConfig.for_model(family, **values)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def batch() -> dict[str, torch.Tensor]:
    """Two rows of unequal length, padded on the right; about half of the tokens are trained."""
    torch.manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (2, 12))
    labels = ids.clone()
    labels[0, :5] = MASKED
    labels[1, :7] = MASKED
    labels[1, 10:] = MASKED
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_the_gradients_are_those_of_full_logits(family: str) -> None:
    model, given = model_of(family), batch()
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *answer: seen.append(answer[-1].shape[:-1].numel()))
    loss = LabelledLoss(model, enabled=True)(model, given)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    targets = given["labels"][:, 1:]
    assert seen == [int((targets != MASKED).sum())]  # it did not fall back

    model.zero_grad()
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
    full = cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=MASKED, reduction="sum")
    full.backward()
    assert loss.item() == pytest.approx(full.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
