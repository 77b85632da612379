"""The linear layers of a model, those of equal name but for their number together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from ftcore.planning.facts import Layer, ModelFacts
from ftcore.planning.memory import quantized_layers
from ftcore.values import Quantization

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@attrs.frozen(kw_only=True)
class Group:
    """Equal layers. `name` has a `*` for each number; `parameters` and `adapter` are of all of them."""

    name: str
    count: int
    inputs: int
    outputs: int
    parameters: int
    rank: int
    adapter: int
    trained: bool
    quantized: bool


def grouped(facts: ModelFacts, quantization: Quantization | None) -> list[Group]:
    """Groups in the order of the model."""
    small = set[str]()
    if quantization is not None and quantization.bytes_per_weight is not None:
        small = {layer.name for layer in quantized_layers(facts.layers, quantization.left_out)}
    kinds: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in facts.layers:
        pattern = _NUMBER.sub("*", layer.name)
        key = (pattern, layer.inputs, layer.outputs, layer.rank, layer.trained, layer.name in small)
        kinds.setdefault(key, []).append(layer)
    return [_group(key[0], layers, quantized=key[-1]) for key, layers in kinds.items()]


def _group(name: str, layers: Iterable[Layer], *, quantized: bool) -> Group:
    layers = list(layers)
    first = layers[0]
    return Group(
        name=name,
        count=len(layers),
        inputs=first.inputs,
        outputs=first.outputs,
        parameters=sum(layer.parameters for layer in layers),
        rank=first.rank,
        adapter=sum(layer.adapter for layer in layers),
        trained=first.trained,
        quantized=quantized,
    )


def elsewhere(facts: ModelFacts) -> int:
    """Parameters of adapters on what is no linear layer, such as experts that lie in one tensor."""
    return facts.added - sum(layer.adapter for layer in facts.layers)


def inspected(facts: ModelFacts, quantization: Quantization | None) -> dict[str, Any]:
    """What `ftcore inspect --json` prints: counts of parameters, and the groups."""
    return {
        "parameters": {
            "total": facts.total,
            "trainable": facts.trained,
            "frozen": facts.frozen,
            "base": facts.base,
            "adapter": facts.added,
            "adapter_elsewhere": elsewhere(facts),
        },
        "adapter": facts.adapter,
        "quantization": "" if quantization is None else quantization.name,
        "layers": [attrs.asdict(group) for group in grouped(facts, quantization)],
    }


COLUMNS = ("linear layers", "no.", "in x out", "parameters", "rank", "adapter", "quant.")
WIDTHS = (20, 3, 11, 11, 5, 10, 6)
"""Of 80 columns; a longer value moves the rest of its line."""


def layer_lines(groups: Iterable[Group]) -> Iterator[str]:
    """The groups as a table, below the part of their names that they have in common."""
    yield _line(COLUMNS)
    above = ""
    for group in groups:
        prefix, mark, _ = group.name.rpartition("*.")
        if prefix != above and prefix:
            yield prefix + mark.rstrip(".")
        above = prefix
        yield _line(_cells(group, group.name.removeprefix(prefix + mark), indented=bool(prefix)))


def _cells(group: Group, name: str, *, indented: bool) -> Sequence[str]:
    return (
        f"  {name}" if indented else name,
        str(group.count),
        f"{group.inputs}x{group.outputs}",
        f"{group.parameters:,}",
        str(group.rank) if group.rank else "whole" if group.trained else "",
        f"{group.adapter:,}" if group.adapter else "",
        "yes" if group.quantized else "",
    )


def _line(cells: Sequence[str]) -> str:
    first, *others = (
        f"{cell:<{width}}" if not place else f"{cell:>{width}}"
        for place, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
