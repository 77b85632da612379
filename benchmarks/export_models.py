"""Random tiny models with drawn adapters, for the benchmark of exports: nothing is trained, and nothing downloaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig

from ftcore.api import MASKED, Example, Ledger, Loaded, PreparedData, Run
from ftcore.testing import make_run
from ftcore_plugins.tiny_model import gemma3_tokenizer, llama

TEXTS = (
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "What is 2 + 2? It's 4, and we'll see whether they've noticed.",
    "Grüße aus Köln, naïve café, Привет, 你好世界, こんにちは",
    "You are a careful assistant. Answer briefly.\n\nWrite a function that adds two numbers.",
    "The quick brown fox jumps over the lazy dog 1234567890 times.",
)
LLAMA_SPLIT, QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
)
"""How Llama 3 and Qwen 2 take text apart (`pre_tokenizer` in their `tokenizer.json`)."""

FAMILIES = ("llama", "qwen2", "mistral", "gemma3_text", "qwen3")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
POSITIONS = 2048
SPREAD = 1.6
"""Standard deviation of drawn weights times the root of the width. It is ten times the usual: a drawn model is else
next to sure of nothing, and any fault would look like rounding."""


@attrs.frozen(kw_only=True)
class Made:
    """What exporters get: a model in memory with an adapter, and the adapter's folder."""

    name: str
    run: Run
    loaded: Loaded
    data: PreparedData
    saved: Path

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the base model."""
        return dict(self.loaded.model.config.to_dict())


def make(folder: Path, seed: int, family: str = "", *, plain: bool = False) -> Made:
    """A model of a random shape. `plain` is in float32, untied and with Llama 3's rope scaling where it can be."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    family = family or FAMILIES[seed % len(FAMILIES)]
    tokenizer = _tokenizer(family, draw)
    model = AutoModelForCausalLM.from_config(_config(family, tokenizer, draw, plain=plain))
    _draw_vectors(model)
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ends)
    dtype = torch.float32 if plain else draw.choice([torch.float32, torch.bfloat16])
    base = folder / "base"
    model.to(dtype).save_pretrained(base)
    tokenizer.save_pretrained(base)
    tuned = adapted(base, seed)
    save_adapter(tuned, folder / "saved")
    run = make_run(folder, model={"id": str(base)}, hardware={"device": "cpu"})
    loaded = Loaded(model=tuned, processor=tokenizer, base=str(base), adapter="lora")
    shape = f"{family} {model.config.hidden_size}x{model.config.num_hidden_layers} {str(dtype).removeprefix('torch.')}"
    return Made(name=shape, run=run, loaded=loaded, data=_data(tokenizer), saved=folder / "saved")


def adapted(base: Path, seed: int) -> Any:
    """The base model in float32 with an adapter that is drawn, not trained."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return tuned.eval()


def save_adapter(tuned: Any, folder: Path) -> Path:
    """As a trainer saves it."""
    tuned.save_pretrained(folder)
    return folder


def _tokenizer(family: str, draw: random.Random) -> Any:
    size = draw.randrange(400, 800)
    if family.startswith("gemma"):
        return gemma3_tokenizer.train_tokenizer(TEXTS, size, POSITIONS)
    tokenizer = llama.train_tokenizer(TEXTS, size, POSITIONS)
    # transformers takes Qwen's text apart in Qwen's way, whatever the file says.
    way = QWEN_SPLIT if family.startswith("qwen") else draw.choice([LLAMA_SPLIT, QWEN_SPLIT, ""])
    if way:  # else it is split as GPT-2's
        split = pre_tokenizers.Split(Regex(way), "isolated")
        end = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, end])
    return tokenizer


def _config(family: str, tokenizer: Any, draw: random.Random, *, plain: bool) -> Any:
    from transformers import CONFIG_MAPPING

    heads = draw.choice([2, 4, 8])
    shape: dict[str, Any] = {
        "hidden_size": draw.choice([64, 128, 256]) if not plain else 256,
        "num_hidden_layers": draw.choice([1, 2, 3]) if not plain else 2,
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([count for count in (1, 2, 4, 8) if heads % count == 0]),
        "intermediate_size": draw.choice([128, 256, 512]),
    }
    more = FAMILY_KEYS.get(family, lambda _: {})(shape)
    if family == "llama" and (plain or draw.random() < 0.5):
        more["rope_parameters"] = LLAMA3
    tied = family.startswith("gemma") or (not plain and draw.random() < 0.5)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CONFIG_MAPPING[family](
        **{**shape, **more, **tokens},
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        max_position_embeddings=POSITIONS,
        initializer_range=SPREAD / shape["hidden_size"] ** 0.5,
    )


def _own_head(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {"head_dim": shape["hidden_size"] // shape["num_attention_heads"]}


def _gemma(shape: Mapping[str, Any]) -> dict[str, Any]:
    head = _own_head(shape)["head_dim"]
    # One layer of six sees everything; MLX runs no model without such a one.
    return {"head_dim": head, "query_pre_attn_scalar": head, "sliding_window": 128, "num_hidden_layers": 6}


FAMILY_KEYS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gemma3_text": _gemma,
    "mistral": lambda shape: {**_own_head(shape), "sliding_window": None},
    "qwen3": _own_head,
    "llama": _own_head,
}


def _draw_vectors(model: Any) -> None:
    """Norms and biases begin as ones and zeros, which would hide whether they are read."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))


def _data(tokenizer: Any) -> PreparedData:
    rows = [_example(tokenizer, question, answer) for question, answer in pairwise(TEXTS)]
    return PreparedData(
        train=rows,
        lengths=[len(row.input_ids) for row in rows],
        validation=[],
        collate=lambda examples: {"input_ids": torch.tensor([list(row.input_ids) for row in examples])},
        ledger=Ledger(rows=len(rows), trained=len(rows), held_out=0),
        end_of_turn=tokenizer.eos_token_id,
    )


def _example(tokenizer: Any, question: str, answer: str) -> Example:
    asked: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    reply = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Example(input_ids=[*asked, *reply], labels=[*[MASKED] * len(asked), *reply], replies=(answer,), origin="")
