"""Models that are shapes only: what a plan walks, without a framework."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs

from ftcore.planning.facts import ModelFacts
from ftcore.planning.measure import measure
from ftcore.planning.setting import RowShape, Setting, Sharding
from ftcore.values import Loaded


class Parameter:
    """The shape of a tensor."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.ndim, self.requires_grad = shape, len(shape), True

    def numel(self) -> int:
        return math.prod(self.shape)


class Module:
    """Children and parameters by name, as torch's modules have them."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts
        for name, part in parts.items():
            setattr(self, name, part)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        yield prefix, self
        for name, part in self.parts.items():
            if isinstance(part, Module):
                yield from part.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Any]:
        return (module for _, module in self.named_modules())

    def parameters(self) -> Iterator[Parameter]:
        seen = set[int]()
        for module in self.modules():
            for part in module.parts.values():
                if isinstance(part, Parameter) and id(part) not in seen:
                    seen.add(id(part))
                    yield part


class Linear(Module):
    def __init__(self, inputs: int, outputs: int, weight: Parameter | None = None) -> None:
        super().__init__(weight=weight or Parameter(outputs, inputs))
        self.in_features, self.out_features, self.bias = inputs, outputs, None


class Norm(Module):
    def __init__(self, width: int) -> None:
        super().__init__(weight=Parameter(width))


class Model(Module):
    """A gated transformer; `tied` says that the output layer's weight is that of the embeddings."""

    def __init__(self, config: Any, *, tied: bool) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        blocks = {
            str(index): Module(
                norm=Norm(width),
                self_attn=Module(q_proj=Linear(width, width), o_proj=Linear(width, width)),
                mlp=Module(
                    gate_proj=Linear(width, inner), up_proj=Linear(width, inner), down_proj=Linear(inner, width)
                ),
                norm2=Norm(width),
            )
            for index in range(config.num_hidden_layers)
        }
        embeddings = Module(weight=Parameter(config.vocab_size, width))
        head = Linear(width, config.vocab_size, embeddings.weight if tied else None)
        super().__init__(embed=embeddings, layers=Module(**blocks), lm_head=head)
        self.config = config

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def get_input_embeddings(self) -> Any:
        return self.embed


def shape_of(**changes: Any) -> Any:
    values = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    return SimpleNamespace(**{**values, **changes})


def model(*, tied: bool = True, **changes: Any) -> Model:
    return Model(shape_of(**changes), tied=tied)


def adapt(drawn: Model, rank: int = 4) -> Model:
    """Freeze the model and wrap its linear layers, as PEFT does, in place."""
    for parameter in drawn.parameters():
        parameter.requires_grad = False
    for block in drawn.layers.parts.values():
        for place in (block.self_attn, block.mlp):
            for name, layer in list(place.parts.items()):
                lora = {"lora_A": Linear(layer.in_features, rank), "lora_B": Linear(rank, layer.out_features)}
                place.parts[name] = Module(base_layer=layer, **lora)
    return drawn


def facts(*, rank: int = 0, **changes: Any) -> ModelFacts:
    loaded = Loaded(model=model(**changes), processor=None, base="m")
    if not rank:
        return measure(loaded)
    return measure(loaded, lambda: attrs.evolve(loaded, model=adapt(loaded.model, rank), adapter="low"))


def rows(length: int = 128, **changes: Any) -> RowShape:
    made = RowShape(longest=length, typical=length, trained=length, typical_trained=length)
    return attrs.evolve(made, **changes)


def setting(**changes: Any) -> Setting:
    values = {
        "device": "cuda",
        "weight": 2,
        "compute": 2,
        "autocast": True,
        "micro": 2,
        "accumulation": 1,
        "rows": rows(),
        "optimizer": "adamw",
        "checkpointing": False,
        "attention": "sdpa",
        "quantization": None,
        "sharding": Sharding(),
    }
    return Setting(**{**values, **changes})
